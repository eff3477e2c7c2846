"""`align feedback` with a config, with settings alone, and with every format."""

import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from align.data.atomic import write_jsonl
from align.data.errors import UserError
from align.data.importers.header import header
from align.data.messages import assistant, cluster_id_of, user
from align.data.schemas import FEEDBACK, Record, completed
from align.data.splits import split_of
from align.pipeline import cli
from align.pipeline.feedback_sources import FORMATS

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


def test_sources_and_settings_come_from_a_config(feedback: Align, tmp_path: Path) -> None:
    file_of(tmp_path, [*study(5), vote("t", "tie", prompt="T")])
    config = tmp_path / "mine.yaml"
    config.write_text(
        "name: mine\nfeedback: {ties: drop}\ndata:\n  feedback:\n"
        "    - {format: records, path: votes.jsonl}\n    - {format: simulated, rows: 3}\n",
        encoding="utf-8",
    )
    out = ["--out", str(tmp_path / "pairs.parquet")]
    printed = feedback("convert", "--config", str(config), *out)
    assert "simulated feedback is made in a run" in printed and "5 pairs of 16" in printed
    changed = [*out, "--set", "feedback.ties=soft", "--set", "data.max_rejected=0.2"]
    assert "6 pairs of 16" in feedback("convert", "--config", str(config), *changed)
    two = file_of(tmp_path, study(2), "two.jsonl")
    assert "2 pairs of 6" in feedback("convert", two, "--config", str(config), *out)
    config.write_text("name: mine\n", encoding="utf-8")
    assert "data.feedback names no file" in complaint(feedback, "inspect", "--config", str(config))


def test_inspect_says_what_the_stages_of_a_config_share(feedback: Align, tmp_path: Path) -> None:
    """Every prompt is held out by the cluster that the feedback names, and by SFT learnt."""
    clusters = [name for name in map(str, range(100)) if split_of(name, 0.1) == "test"]
    texts = [f"Tell me {i} times" for i in range(40)]
    texts = [one for one in texts if split_of(cluster_id_of(user(one)), 0.1) == "train"][:20]
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    texts[0] = long
    assert split_of(cluster_id_of(user(long)), 0.1) == "train"
    votes = [
        vote(f"v{i}", "a", prompt=text, cluster_id=clusters[0]) for i, text in enumerate(texts)
    ]
    write_jsonl(tmp_path / "votes.jsonl", votes)
    rows = [{"prompt": text.upper(), "completion": "Yes"} for text in texts[:15]]
    write_jsonl(tmp_path / "sft.jsonl", rows)
    write_jsonl(tmp_path / "ppo.jsonl", [*rows[:4], {"prompt": "Another", "completion": "Yes"}])
    config = tmp_path / "mine.yaml"
    config.write_text(
        "name: mine\ndata:\n"
        "  instructions: [{format: prompt_completion, path: sft.jsonl}]\n"
        "  prompts: [{format: prompt_completion, path: ppo.jsonl}]\n"
        "  feedback: [{format: records, path: votes.jsonl}]\n",
        encoding="utf-8",
    )
    out = tmp_path / "look"
    printed = feedback("inspect", "--config", str(config), "--out", str(out))
    overlap = json.loads((out / "inspect.json").read_text("utf-8"))["overlap"]
    same = {(one["first"], one["second"]): one["same"] for one in overlap["prompts"]}
    assert same["SFT", "PPO"] == 4
    assert same["SFT", "reward model held out"] == 15
    assert same["PPO", "reward model held out"] == 4
    held_out = {"texts": 20, "long": 1, "found": 1}
    assert overlap["contaminated"]["reward model held out"] == held_out
    for shown in (printed, (out / "inspect.html").read_text("utf-8")):
        assert "reward model held out" in shown and "found in training" in shown
    alone = feedback("inspect", str(tmp_path / "votes.jsonl"), "--out", str(out))
    assert "found in training" not in alone
    assert "Overlap" not in (out / "inspect.html").read_text("utf-8")


def test_settings_need_no_config(feedback: Align, tmp_path: Path) -> None:
    path, out = file_of(tmp_path, [vote("t", "tie")]), str(tmp_path / "pairs.parquet")
    assert "1 pairs of 1" in feedback("convert", path, "--out", out)
    assert "0 pairs of 1" in feedback("convert", path, "--out", out, "--set", "feedback.ties=drop")
    said = complaint(feedback, "convert", path, "--out", out, "--set", "feedback.tie=drop")
    assert "feedback.tie: unknown key; did you mean ties?" in said


def test_out_of_convert_is_a_parquet_file(feedback: Align, tmp_path: Path) -> None:
    path = file_of(tmp_path, study(2))
    for out in (tmp_path, tmp_path / "pairs.csv"):
        assert "name a Parquet file" in complaint(feedback, "convert", path, "--out", str(out))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "records"])
def test_every_format_is_read_or_says_why_not(feedback: Align, format: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, [{"nothing": 1}] * 3)
    assert str(tmp_path) in complaint(feedback, "validate", path, "--format", format)
