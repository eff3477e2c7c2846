"""One JSON request to an HTTP server that may be slow, busy or down, with patience and a limit.

Busy and broken servers (408, 429, 5xx, timeouts, lost connections) are asked again, after waits
that double; anything else is told at once. The API key comes from the environment, goes into one
header, and is struck out of every text that came from the server.
"""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from email.message import Message as Headers
from typing import IO, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, field_validator

from align.data.config import Section
from align.data.errors import UserError
from align.data.urls import plain_http

Reply = TypeVar("Reply")

BUSY = (408, 429)  # and 5xx: the same request may succeed later
ABOUT_THIS_REQUEST = (400, 413, 422)  # too long, or refused by a content filter; others may pass
NOBODY = 3  # tries of an address at which nothing has ever answered
LONGEST_WAIT = 30.0  # seconds between two tries, where the server asks for no longer one
LARGEST_REPLY = 2**24  # bytes
CHUNK = 2**16


class Server(Section):
    """Where requests go, and how long they may take."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    """Without the last part of the path, such as `http://127.0.0.1:8000/v1`."""
    key_variable: str | None = None
    """Environment variable that holds the API key; none is sent without it."""
    workers: int = Field(default=8, gt=0)
    """Requests under way at a time."""
    timeout: float = Field(default=60, gt=0)
    """Seconds of silence after which one try is given up."""
    deadline: float = Field(default=300, gt=0)
    """Seconds for one question with all its tries; the last may end a `timeout` later."""
    tries: int = Field(default=16, gt=0)
    """How often one question is sent at most; the waits between fill a deadline of 300 s."""
    first_wait: float = Field(default=0.5, gt=0)
    """Seconds before the second try."""

    @field_validator("url")
    @classmethod
    def _is_plain_http(cls, url: str) -> str:
        return plain_http(url)

    @property
    def named(self) -> str:
        """What to check where it does not know us."""
        return f"url ({self.url})"

    def key(self) -> str | None:
        """The API key. Raises: UserError, without the value, if it is missing or malformed."""
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise UserError(f"{self.key_variable} is not set: export the API key of {self.url}")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(f"{self.key_variable} is no API key: it has spaces or odd characters")
        return key


Waiting = Callable[[int, str, float], None]
"""Told which try failed, why, and the seconds until the next one."""


def once_each(server: "Server", tell: Callable[[str], None]) -> Waiting:
    """Tells of tries that failed; workers meet the same trouble at the same time."""
    told: set[tuple[int, str]] = set()

    def waiting(failed: int, reason: str, pause: float) -> None:
        if (failed, reason) not in told:
            told.add((failed, reason))
            then = f"attempt {failed + 1} of {server.tries}"
            tell(f"waiting {pause:.1f} s for {server.url}: {reason}; then {then}")

    return waiting


class Endpoint(Server):
    """An OpenAI-compatible server of chat completions; its url ends with the version."""

    model: str = Field(min_length=1)
    """As the server calls it."""

    @property
    def named(self) -> str:
        """What to check where it does not know us."""
        return f"{super().named} and model ({self.model})"


def endpoint_at(url: str, model: str, key_variable: str | None) -> Endpoint:
    """As the command line names it. Raises: UserError, also if its key is missing."""
    try:
        endpoint = Endpoint(url=url, model=model, key_variable=key_variable)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise UserError(f"--endpoint: {problem.removeprefix('Value error, ')}") from None
    endpoint.key()  # a missing key is told before anything is asked
    return endpoint


class Declined(Exception):
    """The server does not answer this request, and may answer others; the text says why."""


class Busy(Exception):
    """To be tried again; the text says why."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


class Unreachable(Busy):
    """No connection: nothing listens at the address, or not yet."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the API key along to wherever the server points."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Headers, newurl: str
    ) -> None:
        return None


def post(
    server: Server,
    path: str,
    body: dict[str, Any],
    stop: threading.Event,
    read: Callable[[str], Reply],
    waiting: Waiting,
    heard: threading.Event | None = None,
) -> Reply:
    """What `read` makes of the server's reply; where it raises Busy the server is asked again.

    `stop`, once set, ends the waiting between tries. `heard` is set as soon as the server answers;
    until then it has NOBODY tries to take a connection, and without `heard` all of them. Raises:
    Declined; UserError if the server is down, slow or without sense beyond the deadline, or refuses
    us.
    """
    key = server.key()
    request = urllib.request.Request(
        f"{server.url}/{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"}
        | ({"Authorization": f"Bearer {key}"} if key else {}),
    )
    end = time.monotonic() + server.deadline
    tries, wait = 0, server.first_wait
    while True:
        tries += 1
        try:
            text = _one_try(request, server, key, end)
            if heard is not None:
                heard.set()
            return read(text)
        except Busy as busy:
            if heard is not None and not isinstance(busy, Unreachable):
                heard.set()
            if heard is not None and not heard.is_set() and tries == NOBODY:
                raise UserError(
                    f"{request.full_url}: nothing listens there ({tries} tries: {busy}): start the "
                    "server, or mend the address"
                ) from None
            pause = max(busy.wait, wait * random.uniform(0.5, 1))  # not all workers at once
            last = tries == server.tries or time.monotonic() + pause >= end
            if not last:
                waiting(tries, str(busy), pause)
            if last or stop.wait(pause):
                raise UserError(
                    f"{request.full_url}: no answer within {server.deadline:g} s (try {tries} of "
                    f"{server.tries}: {busy}): is the server up, and quick enough?"
                ) from None
        wait = min(2 * wait, LONGEST_WAIT)


def _one_try(request: urllib.request.Request, endpoint: Server, key: str | None, end: float) -> str:
    opener = urllib.request.build_opener(_NoRedirect)
    timeout = min(endpoint.timeout, max(end - time.monotonic(), 0.001))
    try:
        with opener.open(request, timeout=timeout) as reply:
            return _without(key, _read(reply, end).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, endpoint, key) from None
    except urllib.error.URLError as error:
        raise Unreachable(_without(key, str(error.reason))) from None
    except TimeoutError:
        raise Busy(f"silent for {timeout:.3g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise Busy(_without(key, str(error) or type(error).__name__)) from None


def _read(reply: http.client.HTTPResponse, end: float) -> bytes:
    """The timeout of a socket counts from the last byte: a trickle would go on for ever."""
    received = bytearray()
    while chunk := reply.read1(CHUNK):
        received += chunk
        if len(received) > LARGEST_REPLY:
            raise Busy(f"a reply of more than {LARGEST_REPLY} bytes")
        if time.monotonic() > end:
            raise Busy("a reply that does not end")
    return bytes(received)


def _refusal(error: urllib.error.HTTPError, endpoint: Server, key: str | None) -> Exception:
    """What an HTTP status means to us."""
    reason = f"HTTP {error.code} {_reason(error, key)}".strip()
    if error.code in BUSY or error.code >= 500:
        asked = error.headers.get("Retry-After", "")
        return Busy(reason, float(asked) if asked.isdecimal() else 0.0)
    if error.code in ABOUT_THIS_REQUEST:
        return Declined(reason)
    remedy = f"check {endpoint.named}"
    if error.code in (401, 403):
        remedy = f"check the API key in {endpoint.key_variable or 'key_variable, which is not set'}"
    elif error.code < 400:
        location = _without(key, error.headers.get("Location", "nowhere"))
        remedy = f"give the address it points to ({location}) as url"
    return UserError(f"{endpoint.url}: {reason}: {remedy}")


def _reason(error: urllib.error.HTTPError, key: str | None) -> str:
    """What the server says, in one short line."""
    try:
        text = error.read1(CHUNK).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
    with suppress(ValueError, KeyError, TypeError):  # most send JSON
        text = json.loads(text)["error"]["message"]
    return _without(key, " ".join(str(text).split()))[:200]


def _without(key: str | None, text: str) -> str:
    """Some servers quote the key that they refuse, or all that they were sent."""
    return text.replace(key, "***") if key else text
