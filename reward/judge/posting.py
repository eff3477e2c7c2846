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
from typing import IO, Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator

from align.data.config import Section
from align.data.errors import UserError
from align.data.messages import shown

BUSY = (408, 429)  # and 5xx: the same request may succeed later
ABOUT_THIS_REQUEST = (400, 413, 422)  # too long, or refused by a content filter; others may pass
LONGEST_WAIT = 30.0  # seconds between two tries, where the server asks for no longer one
LARGEST_REPLY = 2**24  # bytes
CHUNK = 2**16


class Endpoint(Section):
    """An OpenAI-compatible server of chat completions."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    """Up to and with the version, such as `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    """As the server calls it."""
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
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query:  # not shown: it may be a secret
            raise ValueError("must hold no password and no query: name a key_variable for the key")
        plain = url.isascii() and url.isprintable() and " " not in url
        web = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if not plain or not web:
            raise ValueError(f"must be like http://127.0.0.1:8000/v1, not {shown(url)}")
        return url.rstrip("/")

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


class Declined(Exception):
    """The server does not answer this request, and may answer others; the text says why."""


class _Busy(Exception):
    """To be tried again; the text says why."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the API key along to wherever the server points."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Headers, newurl: str
    ) -> None:
        return None


def post(
    endpoint: Endpoint, path: str, body: dict[str, Any], stop: threading.Event, waiting: Waiting
) -> str:
    """The server's reply. `stop`, once set, ends the waiting between tries.

    Raises: Declined; UserError if the server is down, slow beyond the deadline, or refuses us.
    """
    key = endpoint.key()
    request = urllib.request.Request(
        f"{endpoint.url}/{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"}
        | ({"Authorization": f"Bearer {key}"} if key else {}),
    )
    end = time.monotonic() + endpoint.deadline
    tries, wait = 0, endpoint.first_wait
    while True:
        tries += 1
        try:
            return _one_try(request, endpoint, key, end)
        except _Busy as busy:
            pause = max(busy.wait, wait * random.uniform(0.5, 1))  # not all workers at once
            last = tries == endpoint.tries or time.monotonic() + pause >= end
            if not last:
                waiting(tries, str(busy), pause)
            if last or stop.wait(pause):
                raise UserError(
                    f"{request.full_url}: no answer within {endpoint.deadline:g} s (try {tries} of "
                    f"{endpoint.tries}: {busy}): is the server up, and quick enough?"
                ) from None
        wait = min(2 * wait, LONGEST_WAIT)


def _one_try(
    request: urllib.request.Request, endpoint: Endpoint, key: str | None, end: float
) -> str:
    opener = urllib.request.build_opener(_NoRedirect)
    timeout = min(endpoint.timeout, max(end - time.monotonic(), 0.001))
    try:
        with opener.open(request, timeout=timeout) as reply:
            return _without(key, _read(reply, end).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, endpoint, key) from None
    except TimeoutError:
        raise _Busy(f"silent for {timeout:.3g} s") from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _Busy(_without(key, str(error) or type(error).__name__)) from None


def _read(reply: http.client.HTTPResponse, end: float) -> bytes:
    """The timeout of a socket counts from the last byte: a trickle would go on for ever."""
    received = bytearray()
    while chunk := reply.read1(CHUNK):
        received += chunk
        if len(received) > LARGEST_REPLY:
            raise _Busy(f"a reply of more than {LARGEST_REPLY} bytes")
        if time.monotonic() > end:
            raise _Busy("a reply that does not end")
    return bytes(received)


def _refusal(error: urllib.error.HTTPError, endpoint: Endpoint, key: str | None) -> Exception:
    """What an HTTP status means to us."""
    reason = f"HTTP {error.code} {_reason(error, key)}".strip()
    if error.code in BUSY or error.code >= 500:
        asked = error.headers.get("Retry-After", "")
        return _Busy(reason, float(asked) if asked.isdecimal() else 0.0)
    if error.code in ABOUT_THIS_REQUEST:
        return Declined(reason)
    remedy = f"check url ({endpoint.url}) and model ({endpoint.model})"
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
