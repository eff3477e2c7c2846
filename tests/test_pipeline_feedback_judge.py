"""`align feedback judge`: a tiny random model, and a server, as annotators of answers."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from align.data.atomic import write_jsonl
from align.data.config import FeedbackSource
from align.data.errors import UserError
from align.data.feedback import read_feedback
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.rejects import Rejects
from align.data.schemas import FEEDBACK, Record, completed
from align.pipeline import cli
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.judge.answers import Answers, in_pairs, read_answers, single

Align = Callable[..., str]
KEY = "sk-very-secret-123"
ROWS = [
    {"prompt": "Why is the sky blue?", "answers": ["good: air scatters", "bad", "bad: the sea"]},
    {"prompt": "Hi", "answers": ["good day", "bad day"]},
]


@pytest.fixture
def feedback(capsys: pytest.CaptureFixture[str]) -> Align:
    def run(*arguments: str) -> str:
        capsys.readouterr()
        cli.app(["feedback", "judge", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """The arguments that name a file of prompts and answers, and where records go."""
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    out = str(tmp_path / "judged.jsonl")
    return [str(tmp_path / "rows.jsonl"), "--format", "answers", "--out", out]


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[[str], PretrainedConfig]
) -> Path:
    """A tiny random model that reads a whole rubric; the tokenizer comes from the test."""
    folder = tmp_path_factory.mktemp("judge")
    config = tiny_config("llama")
    config.max_position_embeddings = 4096
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


class Server(ThreadingHTTPServer):
    """A judge that likes the answer with `good` in it, and remembers what it was asked."""

    lock: threading.Lock
    asked: list[dict[str, Any]]
    keys: list[str | None]
    hold: Callable[[int], object]
    """Called with the number of a request, from 1, before its reply is sent."""


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for `Server`."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.keys.append(self.headers["Authorization"])
            number = len(self.server.asked)
        self.server.hold(number)
        text = body["messages"][0]["content"]
        better = "A" if "[first answer]\ngood" in text else "B"
        top = [{"token": better, "logprob": -0.05}, {"token": "Z", "logprob": -6.0}]
        choice = {"logprobs": {"content": [{"top_logprobs": top}]}}
        reply = json.dumps({"choices": [choice]}).encode()
        with suppress(OSError):  # the client may have given up
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server(("127.0.0.1", 0), Handler)
    made.asked, made.keys, made.hold = [], [], bool
    made.lock = threading.Lock()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def at(server: Server) -> list[str]:
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return ["--endpoint", address, "--endpoint-model", "tiny-judge"]


def records_in(arguments: list[str]) -> list[Record]:
    path = Path(arguments[arguments.index("--out") + 1])
    return read_feedback([FeedbackSource(format="records", path=path)], 0, None)


def chosen(records: list[Record]) -> set[tuple[str, str]]:
    """Texts of the pairs that records become."""
    parts = convert(records, FeedbackConfig(), 0.1)
    rows = [row for part in parts for row in part.pairs.to_pylist() if row["target_prob"] > 0.5]
    return {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows}


def test_a_server_compares_answers_and_its_records_become_pairs(
    feedback: Align, rows: list[str], server: Server
) -> None:
    printed = feedback(*rows, "--pairwise", "helpful", *at(server))
    assert "4 of 4 judged by tiny-judge" in printed
    # The two bad answers fall to whatever stands second.
    assert "of 4 battles, 3 have one verdict in both orders, 0 went to the first shown" in printed
    records = records_in(rows)
    assert {one["annotator_kind"] for one in records} == {"model"}
    assert {one["criterion"] for one in records} == {"helpful"}
    assert chosen(records) == {
        ("good: air scatters", "bad"),
        ("good: air scatters", "bad: the sea"),
        ("good day", "bad day"),
    }


def test_replies_are_kept_so_that_the_same_command_asks_nothing_again(
    feedback: Align, rows: list[str], server: Server
) -> None:
    feedback(*rows, "--pairwise", "helpful", *at(server))
    asked = len(server.asked)
    assert asked == 8  # four battles in both orders
    feedback(*rows, "--pairwise", "helpful", *at(server))
    assert len(server.asked) == asked
    assert Path(rows[-1] + ".replies.jsonl").is_file()


@pytest.mark.parametrize("change", [["--rubric", "honesty"], ["--endpoint-model", "another"]])
def test_records_of_another_rubric_or_model_are_not_replaced(
    feedback: Align, rows: list[str], server: Server, change: list[str]
) -> None:
    arguments = [*rows, "--rubric", "helpfulness", *at(server)]
    feedback(*arguments)
    asked, before = len(server.asked), Path(rows[-1]).read_bytes()
    with pytest.raises(UserError) as caught:
        feedback(*arguments, *change)
    text = str(caught.value)
    assert "by tiny-judge under helpfulness/1, not by " in text and "\n" not in text
    assert ("another" if "another" in change else "honesty/1") in text
    assert Path(rows[-1]).read_bytes() == before and len(server.asked) == asked
    feedback(*arguments)  # its own are written again
    Path(rows[-1]).write_text('{"mine": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match="holds records by nobody under no guideline"):
        feedback(*arguments)


def test_ctrl_c_ends_at_once_keeps_the_replies_and_the_same_command_goes_on(
    feedback: Align,
    rows: list[str],
    server: Server,
    align: Callable[..., subprocess.Popen[str]],
) -> None:
    """Three questions are answered, the others hang for as long as the test runs."""
    release = threading.Event()
    server.hold = lambda number: number > 3 and release.wait(200)
    kept = Path(rows[-1] + ".replies.jsonl")
    with align("feedback", "judge", *rows, "--pairwise", "helpful", *at(server)) as process:
        while len(server.asked) < 8 or kept.read_text("utf-8").count("\n") < 3:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)  # a reply would take longer
    assert process.returncode == 130
    assert printed.splitlines()[-1].startswith("align: interrupted; ")
    assert "Traceback" not in printed and not Path(rows[-1]).exists()
    release.set()
    feedback(*rows, "--pairwise", "helpful", *at(server))
    assert len(server.asked) == 8 + 5 and len(records_in(rows)) == 4


def test_a_key_comes_from_the_environment_and_goes_nowhere_else(
    feedback: Align, rows: list[str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ["--key-variable", "TEST_JUDGE_KEY"]
    with pytest.raises(UserError, match="TEST_JUDGE_KEY is not set"):
        feedback(*rows, "--pairwise", "helpful", *at(server), *key)
    assert server.asked == []
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    printed = feedback(*rows, "--pairwise", "helpful", *at(server), *key)
    assert set(server.keys) == {f"Bearer {KEY}"} and KEY not in printed
    for file in Path(rows[0]).parent.iterdir():
        assert KEY not in file.read_text("utf-8")


def test_a_model_grades_every_answer_once_by_a_rubric(
    feedback: Align, rows: list[str], model_folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.save_pretrained(model_folder)
    arguments = [*rows, "--rubric", "refusal", "--prompt-class", "benign", "--calibrated"]
    printed = feedback(*arguments, "--model", str(model_folder))
    assert "questions" in printed and f"5 of 5 judged by {model_folder}" in printed
    records = records_in(rows)
    assert [one["kind"] for one in records] == ["rbrm"] * 5
    assert {one["prompt_class"] for one in records} == {"benign"}
    assert all(one["guideline_version"].endswith(", calibrated") for one in records)
    assert len({one["completion_ids"][0] for one in records}) == 5


def test_answers_of_records_are_judged_and_keep_their_source(
    feedback: Align, tmp_path: Path, server: Server
) -> None:
    made = header(
        "ranking", "f", user("Hi"), [assistant("good"), assistant("bad")], source="my study",
        license="CC0-1.0", annotator_id="ann", guideline_version="1",
    )  # fmt: skip
    write_jsonl(tmp_path / "r.jsonl", [completed(made | {"ranks": [2, 1]}, FEEDBACK["ranking"])])
    out = ["--out", str(tmp_path / "judged.parquet")]
    feedback(str(tmp_path / "r.jsonl"), "--pairwise", "overall", *at(server), *out)
    (record,) = records_in(out)
    assert (record["source"], record["license"], record["outcome"]) == ("my study", "CC0-1.0", "a")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ([], "give one of --rubric NAME|FILE and --pairwise CRITERION"),
        (["--rubric", "a", "--pairwise", "b"], "give one of --rubric"),
        (["--rubric", "nope"], "no such rubric; those that ship are helpfulness"),
        (["--pairwise", "nice"], "--pairwise nice: must be one of overall, helpful"),
        (["--pairwise", "honest"], "give one of --model PATH and --endpoint URL"),
        (["--pairwise", "honest", "--endpoint", "http://x/v1"], "needs --endpoint-model NAME"),
        (
            ["--pairwise", "honest", "--endpoint", "x", "--endpoint-model", "m"],
            "--endpoint: must be like http://127.0.0.1:8000/v1, not",
        ),
        (["--pairwise", "honest", "--model", "/nowhere"], "/nowhere"),
    ],
)
def test_what_a_judge_lacks_is_one_line(
    feedback: Align, rows: list[str], more: list[str], text: str
) -> None:
    with pytest.raises(UserError) as caught:
        feedback(*rows, *more)
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert not Path(rows[-1]).exists()


@pytest.mark.parametrize("name", ["judged.csv", ""])
def test_a_file_that_cannot_hold_records_is_told_before_anybody_is_asked(
    feedback: Align, rows: list[str], server: Server, name: str
) -> None:
    out = str(Path(rows[-1]).parent / name)
    with pytest.raises(UserError, match="records cannot be written as"):
        feedback(*rows[:-1], out, "--pairwise", "honest", *at(server))
    assert server.asked == []


def test_an_address_at_which_nothing_listens_is_told_soon(
    feedback: Align, rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nobody = ["--endpoint", "http://127.0.0.1:9/v1", "--endpoint-model", "tiny-judge"]
    with pytest.raises(UserError, match=r"nothing listens there \(3 tries: .*refused"):
        feedback(*rows, "--pairwise", "helpful", *nobody)


def test_answers_with_nothing_beside_them_cannot_be_compared(
    feedback: Align, tmp_path: Path, server: Server
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "Hi", "answers": ["x", "x"]}])
    arguments = [str(tmp_path / "rows.jsonl"), "--format", "answers", "--pairwise", "honest"]
    with pytest.raises(UserError, match="no two different answers to one prompt"):
        feedback(*arguments, "--out", str(tmp_path / "o.jsonl"), *at(server))


def test_bad_rows_of_answers_are_set_aside(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"prompt": "Hi"},
        {"prompt": "Hi", "answers": []},
        {"prompt": "Hi", "answers": ["x", 3]},
        {"prompt": "", "answers": ["x"]},
    ]
    write_jsonl(tmp_path / "rows.jsonl", [*ROWS, *bad])
    rejects = Rejects(None)
    assert len(list(read_answers(tmp_path / "rows.jsonl", rejects))) == 2
    assert [one.line for one in rejects.rejections] == [3, 4, 5, 6]
    assert rejects.rejections[2].field == "answers[1]"


def answers(*texts: str, prompt: str = "Hi") -> Answers:
    return Answers(user(prompt), [assistant(text) for text in texts], "s", "l")


def texts_of(found: list[Answers]) -> list[str]:
    return ["".join(turns[0]["content"] for turns in one.completions) for one in found]


def test_each_answer_and_each_pair_is_asked_about_once() -> None:
    given = [answers("a", "b"), answers("b", "a", "c"), answers("a"), answers("d"), answers("e")]
    assert texts_of(single(given)) == ["a", "b", "c", "d", "e"]
    assert texts_of(in_pairs(given)) == ["ab", "bc", "ac", "ad", "ae", "de"]
    assert in_pairs([answers("a"), answers("b", prompt="Bye")]) == []
