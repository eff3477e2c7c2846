"""A model behind an OpenAI-compatible endpoint as a judge, asked for the first token of its reply.

The server tells the log-probabilities of its likeliest tokens only. A letter that is not among them
gets a floor: it cannot be likelier than the last of those told, nor than all that is left over.

    floor = min(lowest log p told, log(1 - sum of p told))

Every reply is appended to a file as it comes, so what was paid for survives a crash, and the same
command goes on from there. Requests are made by threads that end with the process, for Ctrl-C to
wait for no reply.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, NamedTuple

import numpy as np

from align.data.errors import DataError, UserError, naming
from align.data.messages import Message, sha256_of, shown
from align.reward.judge.asking import Replies
from align.reward.judge.letters import LETTERS
from align.reward.judge.posting import Declined, Endpoint, Waiting, once_each, post

TOP = 20  # the most that the API tells
LEAST_REST = 1e-9  # probability left over, where rounding leaves none
BEGINNING = b'{"question":'  # of every line of kept replies
LEAST_LOGPROB = -1e4  # some servers tell -9999 or minus infinity for zero


class Reply(NamedTuple):
    """What came back for one question."""

    logprobs: list[float]
    floored: int


@dataclass(frozen=True)
class EndpointJudge:
    """Implements `Judge`. `kept` is a JSONL file of replies, which may not exist yet."""

    endpoint: Endpoint
    kept: Path
    tell: Callable[[str], None] = print
    """Takes a line for people to read, while the server is waited for."""
    heard: threading.Event | None = None
    """Set once the server has answered. Without it, a server that is not there yet is waited for as
    long as one that is busy."""

    @property
    def id(self) -> str:
        """The model's name at the server."""
        return self.endpoint.model

    def ask(self, questions: Sequence[list[Message]], letters: int) -> Replies:
        """Questions with a kept reply are not sent again; equal questions are sent once.

        Raises: UserError if the server is down, slow or no judge, or declined every question.
        """
        keys = [sha256_of([self.endpoint.model, letters, question]) for question in questions]
        replies = _read_kept(self.kept)
        todo = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if key not in replies
        }
        declined = self._send(todo, letters, replies) if todo else {}
        if questions and len(declined) == len(set(keys)):
            raise UserError(
                f"{self.endpoint.url}: {self.id} answered none of {len(questions)} questions; the "
                f"first: {declined[keys[0]]}: check that it is a chat model that follows a format"
            )
        nothing = Reply([math.nan] * letters, 0)
        found = [replies.get(key, nothing) for key in keys]
        return Replies(
            logprobs_NK=np.array([reply.logprobs for reply in found]).reshape(-1, letters),
            problems={place: declined[key] for place, key in enumerate(keys) if key in declined},
            floored=sum(reply.floored for reply in found),
        )

    def _send(
        self, todo: dict[str, list[Message]], letters: int, replies: dict[str, Reply]
    ) -> dict[str, str]:
        """Add to `replies` and to the file; why the rest was declined."""
        declined: dict[str, str] = {}
        failure: UserError | None = None
        stop = threading.Event()
        with _appended(self.kept) as file:
            try:
                for key, result in self._results(todo, letters, stop):
                    if isinstance(result, Reply):
                        replies[key] = result
                        file.write(json.dumps({"question": key, **result._asdict()}) + "\n")
                        file.flush()
                    elif isinstance(result, Declined):
                        declined[key] = str(result)
                    elif isinstance(result, UserError):
                        failure = failure or result
                    elif result is not None:
                        raise result
            finally:
                stop.set()  # also on Ctrl-C: what has not begun must not begin
        if failure is not None:
            came = sum(key in replies for key in todo)
            where = f" and are kept in {self.kept}" if came else ""
            kept = f"{came} of {len(todo)} replies came{where}"
            raise UserError(f"{failure} ({kept}: the same command again asks for the others)")
        return declined

    def _results(
        self, todo: dict[str, list[Message]], letters: int, stop: threading.Event
    ) -> Iterator[tuple[str, Reply | Exception | None]]:
        """What became of each question, as it comes; None if it had not begun at `stop`."""
        waiting: SimpleQueue[tuple[str, list[Message]]] = SimpleQueue()
        came: SimpleQueue[tuple[str, Reply | Exception | None]] = SimpleQueue()
        tell = once_each(self.endpoint, self.tell)

        def work() -> None:
            with suppress(Empty):
                while True:
                    key, question = waiting.get_nowait()
                    came.put((key, self._one(question, letters, stop, tell)))

        for one in todo.items():
            waiting.put(one)
        for _ in range(min(self.endpoint.workers, len(todo))):
            threading.Thread(target=work, daemon=True).start()
        for _ in todo:
            yield came.get()

    def _one(
        self, question: list[Message], letters: int, stop: threading.Event, waiting: Waiting
    ) -> Reply | Exception | None:
        """The reply, or why there is none: Declined for this question; anything else stops all."""
        if stop.is_set():
            return None
        body = {
            "model": self.endpoint.model,
            "messages": question,
            "max_tokens": 1,
            "temperature": 1,  # some servers divide the log-probabilities that they tell by it
            "logprobs": True,
            "top_logprobs": TOP,
        }
        try:
            return post(
                self.endpoint,
                "chat/completions",
                body,
                stop,
                lambda text: read_letters(_top_logprobs(text, self.endpoint), letters),
                waiting,
                self.heard,
            )
        except Declined as error:
            return error
        except Exception as error:  # raised again where the results are read
            stop.set()
            return error


def read_letters(top: Sequence[tuple[str, float]], letters: int) -> Reply:
    """log p of each letter from the likeliest (token, log p); "A" and " A" count together.

    Raises: Declined if no letter is among them.
    """
    told = [(token.strip(), max(logprob, LEAST_LOGPROB)) for token, logprob in top]
    rest = 1 - math.fsum(math.exp(logprob) for _, logprob in told)
    lowest = min((logprob for _, logprob in told), default=0.0)
    floor = min(lowest, math.log(max(rest, LEAST_REST)))
    found = [
        [logprob for token, logprob in told if token == letter] for letter in LETTERS[:letters]
    ]
    if not any(found):
        raise Declined(
            f"replied none of the letters A to {LETTERS[letters - 1]}; likeliest is "
            f"{shown(max(top, key=lambda pair: pair[1])[0]) if top else 'nothing'}"
        )
    logprobs = [float(np.logaddexp.reduce(values)) if values else floor for values in found]
    return Reply(logprobs, sum(not values for values in found))


def _top_logprobs(text: str, endpoint: Endpoint) -> list[tuple[str, float]]:
    """The likeliest first tokens of a chat completion. Raises: UserError for anything else."""
    try:
        choice: Any = json.loads(text)["choices"][0]
    except (ValueError, LookupError, TypeError):
        raise UserError(
            f"{endpoint.url}: replied with no chat completion but {shown(text[:200])}: is that the "
            "address of an OpenAI-compatible server, with its version (.../v1)?"
        ) from None
    try:
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [(str(entry["token"]), float(entry["logprob"])) for entry in top]
    except (LookupError, TypeError, ValueError):
        pairs = []
    if not pairs or any(math.isnan(logprob) or logprob > 1e-3 for _, logprob in pairs):
        raise UserError(
            f"{endpoint.url}: {endpoint.model} replied without log-probabilities (top_logprobs): "
            "choose a model and a server that give them"
        )
    return pairs


def _read_kept(path: Path) -> dict[str, Reply]:
    """Replies by question. A last line that a crash cut off counts for nothing and is removed."""
    if not path.is_file():
        return {}
    whole, newline, rest = path.read_bytes().rpartition(b"\n")
    replies: dict[str, Reply] = {}
    for line, text in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(text)
            replies[row["question"]] = Reply(row["logprobs"], row["floored"])
        except (ValueError, LookupError, TypeError):
            raise _foreign(path, line) from None
    if rest and not rest.startswith(BEGINNING[: len(rest)]):
        raise _foreign(path, len(replies) + 1)
    os.truncate(path, len(whole + newline))
    return replies


def _foreign(path: Path, line: int) -> DataError:
    return DataError(f"{path}:{line}: is no reply that a judge kept: name another file")


@contextmanager
def _appended(path: Path) -> Iterator[IO[str]]:
    """The file of replies; it does not stay if none came."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: replies cannot be kept there: {error.strerror}") from None
    try:
        with naming(path), file:
            yield file
    finally:
        if not path.stat().st_size:
            path.unlink()
