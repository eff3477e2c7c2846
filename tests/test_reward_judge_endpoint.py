"""A judge behind HTTP, against real servers: good, flaky, hanging, broken, talking nonsense."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import ValidationError

from align.data.errors import DataError, UserError
from align.data.messages import Message, user
from align.reward.judge.asking import Judge
from align.reward.judge.endpoint import EndpointJudge, read_letters
from align.reward.judge.posting import Declined, Endpoint

KEY = "sk-very-secret-123"
QUESTIONS = [user(f"Question {i}: A or B?") for i in range(6)]
TOP = [("A", -0.2), ("B", -2.0), (" A", -4.0), ("I", -5.0)]


class Answer(NamedTuple):
    """What a server sends back."""

    status: int
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012


Script = Callable[[int, dict[str, Any]], Answer]


class Server(ThreadingHTTPServer):
    """Answers the n-th request, from 0, as its script says, and keeps what it was asked."""

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for `Server`."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append({"path": self.path, **body})
            self.server.headers.append(dict(self.headers.items()))
        answer = self.server.script(number, body)
        with suppress(OSError):  # the client may have given up
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


Serve = Callable[[Script], Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Servers that live as long as the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running: list[Server] = []

    def serve(script: Script) -> Server:
        server = Server(script)
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


def completion(top: list[tuple[str, float]]) -> Answer:
    entries = [{"token": token, "logprob": logprob} for token, logprob in top]
    first = {"token": top[0][0], "logprob": top[0][1], "top_logprobs": entries}
    choice = {"message": {"content": top[0][0]}, "logprobs": {"content": [first]}}
    return Answer(200, json.dumps({"choices": [choice]}).encode())


def good(number: int, body: dict[str, Any]) -> Answer:
    """Likes A less the higher the question's number."""
    place = int(body["messages"][0]["content"].split()[1].rstrip(":"))
    return completion([("A", -0.1 - place), ("B", -3.0)])


def judge_at(server: Server, folder: Path, **settings: Any) -> EndpointJudge:
    host, port = server.server_address[:2]
    settings = {"workers": 1, "first_wait": 0.001, "deadline": 5, "timeout": 2} | settings
    tell = settings.pop("tell", print)
    endpoint = Endpoint(url=f"http://{host!s}:{port}/v1", model="tiny-judge", **settings)
    return EndpointJudge(endpoint, folder / "replies.jsonl", tell)


def complaint(judge: EndpointJudge, questions: list[list[Message]] = QUESTIONS) -> str:
    with pytest.raises(UserError) as caught:
        judge.ask(questions, letters=2)
    text = str(caught.value)
    assert "\n" not in text and KEY not in text
    return text


@pytest.mark.parametrize("workers", [1, 4])
def test_replies_come_in_the_order_of_the_questions(
    serve: Serve, tmp_path: Path, workers: int
) -> None:
    server = serve(good)
    judge: Judge = judge_at(server, tmp_path, workers=workers)
    replies = judge.ask(QUESTIONS, letters=2)
    assert replies.logprobs_NK[:, 0] == pytest.approx(-0.1 - np.arange(6))
    assert replies.logprobs_NK[:, 1] == pytest.approx(-3.0)
    assert replies.floored == 0 and not replies.problems and judge.id == "tiny-judge"
    asked = server.asked[0]
    assert asked["path"] == "/v1/chat/completions" and asked["model"] == "tiny-judge"
    assert (asked["logprobs"], asked["top_logprobs"], asked["max_tokens"]) == (True, 20, 1)
    assert asked["messages"] in QUESTIONS


def test_the_key_comes_from_the_environment_and_goes_into_the_header_alone(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    server = serve(good)
    judge = judge_at(server, tmp_path, key_variable="JUDGE_KEY")
    judge.ask(QUESTIONS[:1], letters=2)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    kept = judge.kept.read_text(encoding="utf-8")
    for text in (kept, repr(judge), json.dumps(server.asked), caplog.text):
        assert KEY not in text
    judge_at(server, tmp_path / "other").ask(QUESTIONS[:1], letters=2)
    assert "Authorization" not in server.headers[1]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(None, "JUDGE_KEY is not set"), ("  ", "is not set"), (f"{KEY}\n{KEY}", "is no API key")],
)
def test_a_missing_or_malformed_key_is_one_line_before_anything_is_sent(
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    wanted: str,
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    server = serve(good)
    assert wanted in complaint(judge_at(server, tmp_path, key_variable="JUDGE_KEY"))
    assert not server.asked


def test_a_server_that_quotes_the_refused_key_does_not_get_it_into_the_error(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    body = json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}}).encode()
    server = serve(lambda *_: Answer(401, body))
    text = complaint(judge_at(server, tmp_path, key_variable="JUDGE_KEY"))
    assert "HTTP 401 Incorrect API key: ***: check the API key in JUDGE_KEY" in text
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [200, 400, 401, 503])
@pytest.mark.parametrize("before", [0, 190])
def test_a_server_that_sends_back_all_it_got_does_not_get_the_key_into_the_error(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, before: int
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server = serve(
        lambda *_: Answer(status, b"." * before + server.headers[-1]["Authorization"].encode())
    )
    text = complaint(judge_at(server, tmp_path, key_variable="JUDGE_KEY", deadline=1))
    assert "sk-" not in text


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_twice_is_asked_again(
    serve: Serve, tmp_path: Path, status: int
) -> None:
    server = serve(lambda n, body: Answer(status, b"busy") if n < 2 else good(n, body))
    replies = judge_at(server, tmp_path).ask(QUESTIONS[:1], letters=2)
    assert replies.logprobs_NK == pytest.approx(np.array([[-0.1, -3.0]]))
    assert len(server.asked) == 3


@pytest.mark.parametrize("workers", [1, 3])
def test_waiting_is_told_with_the_reason_and_the_attempt_and_once_for_all_workers(
    serve: Serve, tmp_path: Path, workers: int
) -> None:
    busy = Answer(503, b'{"error": {"message": "warming up"}}')
    server = serve(lambda number, body: busy if number < 2 * workers else good(number, body))
    told: list[str] = []
    judge = judge_at(server, tmp_path, workers=workers, tries=5, tell=told.append)
    assert not judge.ask(QUESTIONS[:workers], letters=2).problems
    assert told[0].startswith("waiting 0.0 s for http://127.0.0.1:")
    assert told[0].endswith("/v1: HTTP 503 warming up; then attempt 2 of 5")
    # Who asks last may meet more than its share of the refusals.
    assert any(line.endswith("then attempt 3 of 5") for line in told)
    assert len(told) == len(set(told)) <= 4


def test_a_question_is_sent_so_many_times_and_no_more(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda number, body: Answer(503, b""))
    text = complaint(judge_at(server, tmp_path, tries=3), QUESTIONS[:1])
    assert "(try 3 of 3: HTTP 503" in text and len(server.asked) == 3


def test_a_judge_that_says_nothing_leaves_no_file(serve: Serve, tmp_path: Path) -> None:
    complaint(judge_at(serve(lambda number, body: Answer(404, b"")), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_bug_in_a_worker_is_raised_and_does_not_hang(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("ours")

    monkeypatch.setattr("align.reward.judge.endpoint.post", broken)
    with pytest.raises(RuntimeError, match="ours"):
        judge_at(serve(good), tmp_path, workers=2).ask(QUESTIONS, letters=2)


def test_a_server_that_hangs_once_is_asked_again(serve: Serve, tmp_path: Path) -> None:
    gone = threading.Event()

    def hang_once(number: int, body: dict[str, Any]) -> Answer:
        if number == 0:
            gone.wait(10)
        return good(number, body)

    server = serve(hang_once)
    replies = judge_at(server, tmp_path, timeout=0.3).ask(QUESTIONS[:1], letters=2)
    gone.set()
    assert not replies.problems and len(server.asked) == 2


def test_a_server_that_hangs_is_one_line(serve: Serve, tmp_path: Path) -> None:
    gone = threading.Event()

    def hang(number: int, body: dict[str, Any]) -> Answer:
        gone.wait(10)
        return good(number, body)

    server = serve(hang)
    text = complaint(judge_at(server, tmp_path, timeout=0.1, deadline=0.3))
    gone.set()
    assert "no answer within 0.3 s" in text and ": silent for " in text


def test_a_reply_that_trickles_ends_at_the_deadline(serve: Serve, tmp_path: Path) -> None:
    class Trickling(Handler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b" ")
                    time.sleep(0.05)

    server = serve(good)
    server.RequestHandlerClass = Trickling
    text = complaint(judge_at(server, tmp_path, deadline=0.3))
    assert ": a reply that does not end)" in text


def test_a_server_that_wants_a_longer_pause_than_there_is_time_is_not_asked_again(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(lambda *_: Answer(429, b"slow down", {"Retry-After": "3600"}))
    assert "(try 1 of 16: HTTP 429 slow down)" in complaint(judge_at(server, tmp_path))
    assert len(server.asked) == 1


def test_nobody_there_is_one_line(serve: Serve, tmp_path: Path) -> None:
    judge = judge_at(serve(good), tmp_path, deadline=1)
    nobody = judge.endpoint.model_copy(update={"url": "http://127.0.0.1:9/v1"})
    text = complaint(EndpointJudge(nobody, judge.kept))
    assert text.startswith("http://127.0.0.1:9/v1/chat/completions: no answer within 1 s (")
    assert "refused" in text and "is the server up" in text


@pytest.mark.parametrize("workers", [1, 4])
def test_where_nobody_ever_answered_it_is_given_up_after_three_tries(
    serve: Serve, tmp_path: Path, workers: int
) -> None:
    told: list[str] = []
    judge = judge_at(serve(good), tmp_path, deadline=300, workers=workers)
    nobody = judge.endpoint.model_copy(update={"url": "http://127.0.0.1:9/v1"})
    text = complaint(EndpointJudge(nobody, judge.kept, told.append, threading.Event()))
    assert text.startswith("http://127.0.0.1:9/v1/chat/completions: nothing listens there (3 tries")
    assert "refused" in text and len(told) == 2


@pytest.mark.parametrize("first", [good, lambda number, body: Answer(503, b"")])
def test_a_server_that_answered_once_is_waited_for(
    serve: Serve, tmp_path: Path, first: Script
) -> None:
    """It is gone after its first answer, and comes back after more tries than nobody is given."""
    judge = replace(judge_at(serve(first), tmp_path, tries=3), heard=threading.Event())
    with suppress(UserError):
        judge.ask(QUESTIONS[:1], letters=2)
    gone = judge.endpoint.model_copy(update={"url": "http://127.0.0.1:9/v1", "tries": 5})
    assert "(try 5 of 5: " in complaint(replace(judge, endpoint=gone), QUESTIONS[1:])


def test_what_came_is_kept_and_the_same_call_asks_for_the_rest(
    serve: Serve, tmp_path: Path
) -> None:
    broken = serve(lambda n, body: good(n, body) if n < 3 else Answer(500, b"out of memory"))
    text = complaint(judge_at(broken, tmp_path, deadline=1))
    assert ": HTTP 500 out of memory)" in text
    assert "(3 of 6 replies came and are kept in" in text
    mended = serve(good)
    replies = judge_at(mended, tmp_path).ask(QUESTIONS, letters=2)
    assert replies.logprobs_NK[:, 0] == pytest.approx(-0.1 - np.arange(6))
    assert [asked["messages"] for asked in mended.asked] == QUESTIONS[3:]


def test_one_failure_stops_what_has_not_begun(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda *_: Answer(404, b"no such model"))
    text = complaint(judge_at(server, tmp_path), QUESTIONS * 20)
    assert "HTTP 404 no such model: check url" in text and len(server.asked) == 1


def test_equal_questions_are_sent_once(serve: Serve, tmp_path: Path) -> None:
    server = serve(good)
    replies = judge_at(server, tmp_path).ask([QUESTIONS[1]] * 3, letters=2)
    assert len(server.asked) == 1 and (replies.logprobs_NK[:, 0] == -1.1).all()


def test_a_line_that_a_crash_cut_off_is_asked_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(good)
    judge = judge_at(server, tmp_path)
    judge.ask(QUESTIONS[:3], letters=2)
    whole = judge.kept.read_bytes()
    judge.kept.write_bytes(whole[:-20])
    replies = judge.ask(QUESTIONS[:3], letters=2)
    assert len(server.asked) == 4 and np.isfinite(replies.logprobs_NK).all()
    assert sorted(judge.kept.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize("text", ["my notes", "my notes\n", '{"a": 1}\n', "[1]\n"])
def test_a_file_that_holds_something_else_is_refused_and_left_alone(
    serve: Serve, tmp_path: Path, text: str
) -> None:
    judge = judge_at(serve(good), tmp_path)
    judge.kept.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"replies.jsonl:1: is no reply that a judge kept"):
        judge.ask(QUESTIONS, letters=2)
    assert judge.kept.read_text(encoding="utf-8") == text


def test_a_folder_in_place_of_the_file_is_one_line(serve: Serve, tmp_path: Path) -> None:
    judge = judge_at(serve(good), tmp_path)
    judge.kept.mkdir()
    assert "replies cannot be kept there: Is a directory" in complaint(judge)


@pytest.mark.parametrize(
    "body", [b"<html>Welcome!</html>", b"\xff\xfe", b"", b"[]", b'{"choices": []}', b"null"]
)
def test_garbage_is_one_line(serve: Serve, tmp_path: Path, body: bytes) -> None:
    server = serve(lambda *_: Answer(200, body))
    text = complaint(judge_at(server, tmp_path))
    assert "replied with no chat completion but" in text and len(server.asked) == 1


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {"content": []},
        {"content": [{"token": "A", "logprob": -1.0}]},
        {"content": [{"top_logprobs": []}]},
        {"content": [{"top_logprobs": [{"token": "A", "logprob": "high"}]}]},
        {"content": [{"top_logprobs": [{"token": "A", "logprob": 3.0}]}]},
        {"content": [{"top_logprobs": [{"token": "A", "logprob": math.nan}]}]},
    ],
)
def test_a_server_without_log_probabilities_is_one_line(
    serve: Serve, tmp_path: Path, logprobs: object
) -> None:
    body = json.dumps({"choices": [{"message": {"content": "A"}, "logprobs": logprobs}]})
    server = serve(lambda *_: Answer(200, body.encode()))
    assert "tiny-judge replied without log-probabilities" in complaint(judge_at(server, tmp_path))


def test_a_question_that_is_declined_does_not_stop_the_others(serve: Serve, tmp_path: Path) -> None:
    def filtered(number: int, body: dict[str, Any]) -> Answer:
        if "Question 2" in body["messages"][0]["content"]:
            return Answer(400, b'{"error": {"message": "content filter"}}')
        return good(number, body)

    replies = judge_at(serve(filtered), tmp_path).ask(QUESTIONS, letters=2)
    assert replies.problems == {2: "HTTP 400 content filter"}
    assert np.isnan(replies.logprobs_NK).any(axis=1).tolist() == [i == 2 for i in range(6)]


def test_a_judge_that_replies_no_letter_to_anything_is_one_line(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(lambda *_: completion([("I", -0.1), ("As", -3.0)]))
    text = complaint(judge_at(server, tmp_path))
    assert "answered none of 6 questions; the first: replied none of the letters A to B" in text
    assert 'likeliest is "I"' in text


def test_a_redirect_is_not_followed_with_the_key(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    thief = serve(good)
    there = f"http://127.0.0.1:{thief.server_address[1]}/v1"
    server = serve(lambda *_: Answer(307, b"", {"Location": there}))
    text = complaint(judge_at(server, tmp_path, key_variable="JUDGE_KEY"))
    assert f"give the address it points to ({there}) as url" in text and not thief.asked


def test_letters_with_and_without_a_space_count_together_and_missing_ones_get_the_floor() -> None:
    reply = read_letters(TOP, letters=4)
    rest = 1 - sum(math.exp(logprob) for _, logprob in TOP)
    assert reply.floored == 2
    assert reply.logprobs[0] == pytest.approx(math.log(math.exp(-0.2) + math.exp(-4)))
    assert reply.logprobs[1] == pytest.approx(-2.0)
    assert reply.logprobs[2] == reply.logprobs[3] == min(-5.0, math.log(rest))


@pytest.mark.parametrize(
    ("top", "floor"),
    [
        ([("A", math.log(0.999))], math.log(0.001)),  # one token told: what is left over
        ([("A", math.log(0.5)), ("x", math.log(0.1))], math.log(0.1)),  # none can be likelier
        ([("A", 0.0), ("x", -9999.0)], -9999.0),
        ([("A", 0.0), ("x", -math.inf)], -1e4),
        ([("A", 1e-6)], math.log(1e-9)),  # rounding
    ],
)
def test_the_floor_is_an_upper_bound_and_finite(top: list[tuple[str, float]], floor: float) -> None:
    assert read_letters(top, letters=2).logprobs[1] == pytest.approx(floor)


def test_a_reply_without_any_letter_is_declined() -> None:
    with pytest.raises(Declined, match='none of the letters A to C; likeliest is "Sure"'):
        read_letters([("a", -2.0), ("Sure", -0.5)], letters=3)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "file:///etc/passwd", "http://", "http://a b/v1", "http://h:port/v1", ""],
)
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"must be like http|[Pp]ort"):
        Endpoint(url=url, model="m")


@pytest.mark.parametrize("url", [f"http://me:{KEY}@host/v1", f"http://host/v1?key={KEY}"])
def test_a_secret_in_the_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValidationError, match="must hold no password and no query") as caught:
        Endpoint(url=url, model="m")
    assert KEY not in str(caught.value)
