"""Parts of a reward: the formulas by hand, the user's functions, and real servers, good and bad."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from align.data.errors import UserError
from align.data.messages import user
from align.reward.judge.posting import Server
from align.reward.signals.exchange import Exchange
from align.reward.signals.functions import function_scores, load_function
from align.reward.signals.mix import cautious, excess, mixed
from align.reward.signals.server import server_scores

EXCHANGES = [Exchange(user(f"Question {i}"), "x" * i) for i in range(7)]


def test_a_mix_by_hand() -> None:
    parts = {"taste": torch.tensor([1.0, -2.0, 3.0]), "polite": torch.tensor([0.0, 1.0, 1.0])}
    found = mixed(parts, {"taste": 2.0, "polite": 0.5}, {"polite": 0.5}, gated=-1.0)
    assert found.total_B.tolist() == [-1.0, -3.5, 6.5]
    assert found.gated_B is not None and found.gated_B.tolist() == [True, False, False]
    assert found.metrics == pytest.approx(
        {"reward/taste": 2 / 3, "reward/polite": 2 / 3, "reward/gated": 1 / 3}
    )


def test_one_part_of_weight_one_is_the_reward_to_the_last_bit() -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixed({"model": scores}, {"model": 1.0}, {}, -1.0).total_B, scores)


def test_an_ensemble_that_disagrees_is_believed_less() -> None:
    scores = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert cautious(scores, 0).tolist() == [2.0, 5.0]
    assert cautious(scores, 0.5).tolist() == [1.5, 5.0]


def test_only_tokens_above_the_limit_cost() -> None:
    assert excess([3, 10, 12], longest=10).tolist() == [0, 0, -2]


def write_rules(folder: Path) -> Path:
    file = folder / "rules.py"
    file.write_text(
        "def long(prompt, answer):\n    return len(answer)\n"
        "def polite(prompt, answer):\n    return 'please' in answer\n"
        "def broken(prompt, answer):\n    return 1 / len(answer)\n"
        "def wordy(prompt, answer):\n    return 'good'\n"
        "LIMIT = 3\n"
    )
    return file


def test_a_function_comes_from_a_file_or_a_module(tmp_path: Path) -> None:
    file = write_rules(tmp_path)
    scores = function_scores(load_function("long", file), "long", EXCHANGES)
    assert scores == [0, 1, 2, 3, 4, 5, 6]
    assert function_scores(load_function("polite", file), "polite", EXCHANGES) == [0.0] * 7
    assert load_function("math:hypot", None).__name__ == "hypot"


@pytest.mark.parametrize(
    ("name", "has_file", "message"),
    [
        ("missing", True, "no function 'missing' in"),
        ("LIMIT", True, "no function 'LIMIT' in"),
        ("math:nothing", False, "no function 'nothing' in math"),
        ("no_such_module_here:f", False, "cannot read no_such_module_here"),
        ("long", False, "write `module:name`, or a bare name and its `file`"),
        ("rules:long", True, "write `module:name`, or a bare name and its `file`"),
    ],
)
def test_a_function_that_is_not_there_is_one_line(
    tmp_path: Path, name: str, has_file: bool, message: str
) -> None:
    file = write_rules(tmp_path)
    with pytest.raises(UserError) as caught:
        load_function(name, file if has_file else None)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "broken raised ZeroDivisionError: division by zero on answer 0"),
        ("wordy", 'wordy must return a number, and returned "good" for answer 0'),
    ],
)
def test_a_function_that_fails_is_named_with_the_answer(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        function_scores(load_function(name, write_rules(tmp_path)), name, EXCHANGES)


# What a server does with the n-th request, from 0: a status and a body.
Script = Callable[[int, Sequence[dict[str, Any]]], tuple[int, Any]]


class RewardServer(ThreadingHTTPServer):
    """Answers as its script says, and keeps the sizes of the batches it was sent."""

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.sizes, self.lock = script, [], threading.Lock()  # type: ignore[var-annotated]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for `RewardServer`."""

    server: RewardServer

    def do_POST(self) -> None:
        assert self.path == "/score"
        exchanges = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["exchanges"]
        with self.server.lock:
            number = len(self.server.sizes)
            self.server.sizes.append(len(exchanges))
        status, body = self.server.script(number, exchanges)
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        with suppress(OSError):  # the client may have given up
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        pass


Serve = Callable[[Script], RewardServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(script: Script) -> RewardServer:
        server = RewardServer(script)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def good(_: int, exchanges: Sequence[dict[str, Any]]) -> tuple[int, Any]:
    assert all(one["prompt"][-1]["role"] == "user" for one in exchanges)
    return 200, {"scores": [len(one["answer"]) for one in exchanges]}


def client(server: RewardServer, deadline: float = 20) -> Server:
    return Server(url=server.url, timeout=0.5, deadline=deadline, first_wait=0.01)


def test_scores_come_in_batches_and_in_order(serve: Serve) -> None:
    server = serve(good)
    assert server_scores(client(server), EXCHANGES, batch_size=3) == [0, 1, 2, 3, 4, 5, 6]
    assert sorted(server.sizes) == [1, 3, 3]


@pytest.mark.parametrize(
    "bad",
    [
        (503, b"busy"),
        (200, b"<html>hello</html>"),
        (200, {"scores": [1.0]}),
        (200, {"scores": [1, 2, 3, 4, 5, 6, None]}),
        (200, {"scores": ["1"] * 7}),
        (200, b'{"scores": [1, 2, 3, 4, 5, 6, NaN]}'),
        (200, {"rewards": [1] * 7}),
        (200, [1, 2]),
    ],
)
def test_a_server_that_stumbles_is_asked_again_and_one_that_never_recovers_is_one_line(
    serve: Serve, bad: tuple[int, Any]
) -> None:
    server = serve(lambda number, sent: bad if number < 2 else good(number, sent))
    assert server_scores(client(server), EXCHANGES, batch_size=7) == [0, 1, 2, 3, 4, 5, 6]
    assert server.sizes == [7, 7, 7]
    with pytest.raises(UserError, match=r"/score: no answer within 0\.3 s") as caught:
        server_scores(client(serve(lambda *_: bad), deadline=0.3), EXCHANGES, batch_size=7)
    assert "\n" not in str(caught.value)


def test_a_slow_server_is_given_up_and_asked_again(serve: Serve) -> None:
    def slow(number: int, sent: Sequence[dict[str, Any]]) -> tuple[int, Any]:
        time.sleep(1.5 if number == 0 else 0)
        return good(number, sent)

    server = serve(slow)
    assert server_scores(client(server), EXCHANGES, batch_size=7) == [0, 1, 2, 3, 4, 5, 6]
    assert len(server.sizes) == 2


def test_a_server_that_is_down_or_refuses_is_one_line(serve: Serve) -> None:
    gone = RewardServer(good)
    gone.server_close()
    with pytest.raises(UserError, match=r"no answer within 0\.3 s .*refused"):
        server_scores(client(gone, deadline=0.3), EXCHANGES, batch_size=2)
    refusing = serve(lambda *_: (422, b"answers too long"))
    with pytest.raises(UserError, match="HTTP 422 answers too long"):
        server_scores(client(refusing), EXCHANGES, batch_size=2)
    with pytest.raises(UserError, match=r"HTTP 404 .*check url \(http"):
        server_scores(client(serve(lambda *_: (404, b"no"))), EXCHANGES, batch_size=2)
