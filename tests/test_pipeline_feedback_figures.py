"""What `align feedback` measures and prints where there is little or odd feedback."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from align.data.atomic import write_jsonl
from align.data.errors import UserError
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import FEEDBACK, Record, completed
from align.pipeline import cli

Align = Callable[..., str]


DAY = datetime(2026, 3, 1, tzinfo=UTC)


def vote(name: str, outcome: str, **fields: Any) -> Record:
    made = header(
        "comparison",
        name,
        user(fields.pop("prompt", "Hi")),
        [assistant(text) for text in fields.pop("texts", ("a long answer", "b"))],
        source="study",
        license=None,
        annotator_id=fields.pop("annotator_id", "ann"),
        guideline_version="1",
        created_at=DAY,
    )
    fields = {"gold": False} | fields
    return completed(made | {"outcome": outcome} | fields, FEEDBACK["comparison"])


def file_of(folder: Path, records: Iterable[Any], name: str = "votes.jsonl") -> str:
    write_jsonl(folder / name, records)
    return str(folder / name)


@pytest.fixture
def feedback(capsys: pytest.CaptureFixture[str]) -> Align:
    """Runs a command in this process and returns what it printed."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        cli.app(["feedback", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run


def complaint(feedback: Align, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        feedback(*arguments)
    return str(caught.value)


def study(count: int = 60, **fields: Any) -> list[Record]:
    """Three annotators on the same prompts; the third is a coin."""
    chance = random.Random(3)
    right = {"ann": 0.95, "bob": 0.9, "coin": 0.5}
    return [
        vote(
            f"{who}-{place}",
            "ab"[(place + (chance.random() > sure)) % 2],
            prompt=f"P{place}",
            annotator_id=who,
            display_order=[0, 1],
            **fields,
        )
        for place in range(count)
        for who, sure in right.items()
    ]


def words(text: str) -> str:
    return " ".join(text.split())


def test_ties_alone_have_defined_figures(feedback: Align, tmp_path: Path) -> None:
    ties = [
        vote(f"{who}{i}", "tie", prompt=f"P{i}", annotator_id=who, player_a="x", player_b="y")
        for i in range(4)
        for who in "ab"
    ]
    out = tmp_path / "out"
    printed = feedback("agreement", file_of(tmp_path, ties), "--out", str(out))
    assert "every vote is the same label" in printed and "nan" not in printed.lower()
    found = json.loads((out / "agreement.json").read_text("utf-8"))["ratings"]["overall"]
    assert [round(one["elo"]) for one in found["players"]] == [1000, 1000]
    assert "Nothing was decided" not in feedback("inspect", file_of(tmp_path, ties))
    feedback("inspect", file_of(tmp_path, ties), "--out", str(out))


def test_one_annotator_alone_agrees_with_nobody(feedback: Align, tmp_path: Path) -> None:
    votes = [vote(str(i), "a", prompt=f"P{i}", player_a="x", player_b="y") for i in range(5)]
    out = tmp_path / "out"
    printed = feedback("agreement", file_of(tmp_path, votes), "--out", str(out))
    assert "no item has votes by two annotators" in printed
    assert "ann 5 - 0 -" in words(printed)
    assert "no maximum likelihood estimate exists" in printed and "inf" not in printed
    json.loads((out / "agreement.json").read_text("utf-8"), parse_constant=pytest.fail)


def test_without_an_item_of_two_votes_dawid_skene_has_no_measure(
    feedback: Align, tmp_path: Path
) -> None:
    votes = [vote(f"{i}", "aab"[i % 3], prompt=f"P{i}", annotator_id="xy"[i % 2]) for i in range(9)]
    out = tmp_path / "out"
    printed = feedback("agreement", file_of(tmp_path, votes), "--out", str(out))
    none = "no item has a majority of two votes or more"
    assert f"Dawid-Skene has no measure: {none}" in printed
    assert "Dawid-Skene and the majority" not in printed
    html = words((out / "agreement.html").read_text("utf-8"))
    assert f'<dt>Dawid-Skene</dt><dd class="value">—</dd><dd class="quiet">{none}</dd>' in html
    pool = json.loads((out / "agreement.json").read_text("utf-8"))["pool"]
    assert pool["majority"] == {"items": 0, "same": 0}


def test_a_long_name_does_not_widen_the_tables_and_is_whole_in_the_json(
    feedback: Align, tmp_path: Path
) -> None:
    votes = study(5, player_a="p" * 300, player_b="p" * 299 + "q")
    long = [one | {"annotator_id": "x" * 300} for one in votes if one["annotator_id"] == "coin"]
    votes = [one for one in votes if one["annotator_id"] != "coin"] + long
    path, out = file_of(tmp_path, votes), tmp_path / "out"
    for command in ("inspect", "agreement"):
        printed = feedback(command, path, "--out", str(out))
        rows = [line for line in printed.splitlines() if str(tmp_path) not in line]
        assert max(map(len, rows)) < 140 and f"{'x' * 19}…{'x' * 19}" in printed
        assert "x" * 300 in (out / f"{command}.json").read_text("utf-8")
    met = feedback("agreement", path, "--next-battles", "1").split("Who should meet next")[1]
    assert max(map(len, met.splitlines())) < 100 and "pq" in met


def test_players_who_never_met_are_in_groups_of_their_own(feedback: Align, tmp_path: Path) -> None:
    votes = [
        vote(f"{i}{players}", "ab"[i % 2], prompt=f"{i}", player_a=players[0], player_b=players[1])
        for i in range(6)
        for players in ("pq", "xy")
    ]
    out = tmp_path / "out"
    path = file_of(tmp_path, votes)
    printed = feedback("agreement", path, "--out", str(out), "--next-battles", "1")
    never = "2 groups of players never met each other: their ratings cannot be compared"
    assert printed.count(never) == 1
    first, second = printed.split("Group 1 of 2")[1].split("Group 2 of 2")
    assert words(first).startswith("player battles Elo 95 % interval online Elo")
    assert " p " in first and " x " not in first
    assert " x " in second and " p " not in second.split("Who should meet next")[0]
    assert "p x" in words(second.split("Who should meet next")[1])
    html = (out / "agreement.html").read_text("utf-8")
    assert never in html
    assert html.count("2 of 2 players are level") == 2 * 2  # title and description, each group
    assert "Elo by overall, group 2 of 2" in html


def test_equally_long_answers_are_said_to_be_so(feedback: Align, tmp_path: Path) -> None:
    votes = [vote(str(i), "ab"[i % 2], prompt=f"P{i}", texts=("one", "two")) for i in range(6)]
    out = tmp_path / "out"
    printed = feedback("inspect", file_of(tmp_path, votes), "--out", str(out))
    html = (out / "inspect.html").read_text("utf-8")
    for text in (printed, html):
        assert "where one answer was found better, both are equally long" in text
        assert "Nothing was decided" not in text


def test_ids_with_control_characters_are_printed_escaped(feedback: Align, tmp_path: Path) -> None:
    name = "ann\x1b[2J\nalign: done\x9b"
    votes = [
        vote(f"{who}{i}", "ab"[i % 2], prompt=f"P{i}", annotator_id=who)
        | {"source": "s\x1b]0;", "player_a": "p\x1b[1m", "player_b": "q"}
        for i in range(6)
        for who in (name, "bob")
    ]
    path = file_of(tmp_path, votes)
    for command in ("inspect", "agreement"):
        printed = feedback(command, path)
        assert "\x1b" not in printed and "\x9b" not in printed and "\nalign: done" not in printed
        assert r"ann\x1b[2J\nalign: done\x9b" in printed
    both = [one | {"annotator_kind": "model"} for one in votes[:1]] + votes[2:]
    said = complaint(feedback, "agreement", file_of(tmp_path, both, "both.jsonl"))
    assert "\x1b" not in said and "\n" not in said


def test_feedback_that_compares_nothing_has_no_agreement(feedback: Align, tmp_path: Path) -> None:
    said = complaint(feedback, "agreement", file_of(tmp_path, [vote("s", "skip")]))
    assert (
        said == "votes.jsonl: nobody says of two answers which one is better, so nobody can agree"
    )


def test_ctrl_c_in_convert_is_one_line_and_leaves_nothing(
    align: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    write_jsonl(
        tmp_path / "votes.jsonl", (vote(f"v{i}", "a", prompt=f"Hi {i}") for i in range(20_000))
    )
    folder = tmp_path / "out"
    arguments = [str(tmp_path / "votes.jsonl"), "--out", str(folder / "pairs.parquet")]
    with align("feedback", "convert", *arguments) as process:
        while not list(folder.glob(".pairs.parquet.*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed.splitlines()[-1].startswith("align: interrupted; nothing is half-written")
    assert "Traceback" not in printed
    assert list(folder.iterdir()) == []
