"""`align feedback` and the people who gave it: measured, excluded, told."""

import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from align.data.atomic import write_jsonl
from align.data.config import DataConfig, FeedbackSource
from align.data.errors import UserError
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import ANNOTATOR, FEEDBACK, Record, completed, write_table
from align.pipeline import cli
from align.pipeline.conversion import converted
from align.pipeline.inputs import check_inputs
from align.pipeline.loading import default_config
from align.reward.annotators.members import read_annotators
from align.reward.config import FeedbackConfig
from align.reward.pairs_file import read_pairs, write_pairs

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


def test_annotators_are_measured_by_gold_and_models_are_marked(
    feedback: Align, tmp_path: Path
) -> None:
    votes = [
        vote(
            f"{who}{i}",
            "ab"[(i + (who == "liar")) % 2],
            prompt=f"P{i}",
            annotator_id=who,
            annotator_kind="model" if who == "llm" else "human",
            gold=True,
        )
        for i in range(20)
        for who in ("boss", "good", "liar", "llm")
    ]
    path, out = file_of(tmp_path, votes), tmp_path / "out"
    assert "with --gold-by ANNOTATOR" in feedback("agreement", path)
    printed = feedback("agreement", path, "--gold-by", "boss", "--out", str(out))
    assert "llm (model)" in printed and "3 annotators, 60 votes on 20 items" in printed
    rows = {row["annotator_id"]: row for row in read_annotators(out / "annotators.parquet")}
    assert rows["good"]["gold_agree"] == 1 and rows["liar"]["gold_agree"] == 0
    assert rows["llm"]["wilson_lb"] == pytest.approx(0.839, abs=1e-3)
    assert rows["boss"]["gold_n"] == 0 and rows["llm"]["kind"] == "model"
    assert "judged no record that is" in complaint(feedback, "agreement", path, "--gold-by", "x")


def test_super_raters_and_what_to_tell_the_others_come_from_gold(
    feedback: Align, tmp_path: Path
) -> None:
    votes = [
        vote(
            f"{who}{i}",
            "ab"[(i + (who == "liar" and i < 3)) % 2],
            prompt=f"P{i}",
            annotator_id=who,
            gold=True,
        )
        | {"created_at": DAY + timedelta(days=i)}
        for i in range(30)
        for who in ("boss", "good", "liar")
    ]
    later = [
        vote(f"n{i}", "a", prompt=f"Q{i}", annotator_id="good")
        | {"created_at": DAY + timedelta(days=i)}
        for i in (20, 21, 25)
    ]
    path, out = file_of(tmp_path, [*votes, *later]), tmp_path / "out"
    printed = words(feedback("agreement", path, "--gold-by", "boss", "--out", str(out)))
    assert "good 30 1.000 0.886 1.000 2026-03-22 to now" in printed
    assert "liar 30 0.900 0.744 0.800 -" in printed
    assert "3 judgements of gold items to go through with annotators" in printed
    log = [json.loads(line) for line in (out / "feedback-log.jsonl").read_text().splitlines()]
    assert [row["feedback_id"] for row in log] == ["liar0", "liar1", "liar2"]
    assert log[0]["said"] != log[0]["gold_says"] and set(log[0]["completions"]) == {
        log[0]["said"],
        log[0]["gold_says"],
    }
    made = pairs_by(tmp_path, path, annotators=out / "members.parquet")
    assert sorted(one for row in made for one in row["feedback_ids"]) == ["n21", "n25"]


def test_what_an_older_guideline_judged_is_counted_and_queued(
    feedback: Align, tmp_path: Path
) -> None:
    votes = [
        vote(f"f{i}", "a", prompt=f"P{i % 3}", annotator_id=f"w{i // 3}")
        | {"guideline_version": version}
        for i, version in enumerate(["1", "1", "1", "2", "9"])
    ]
    config = tmp_path / "mine.yaml"
    versions = [("1", "2025-01-01"), ("2", "2025-06-01"), ("3", "2999-01-01")]
    lines = [f'    - {{version: "{name}", in_force_from: {since}}}' for name, since in versions]
    config.write_text("name: mine\nfeedback:\n  guidelines:\n" + "\n".join(lines) + "\n")
    path, out = file_of(tmp_path, votes), tmp_path / "out"
    printed = words(feedback("agreement", path, "--config", str(config), "--out", str(out)))
    # Version 1 was replaced when these were made, in 2026; 3 is not yet in force.
    assert "1 2025-01-01 3 3 3 2 2025-06-01 1 0 0 3 2999-01-01 0 0 0" in printed
    assert "1 records follow no version of feedback.guidelines; the first is f4" in printed
    assert "2 items that nobody judged by the version in force" in printed
    queue = [json.loads(line) for line in (out / "relabel.jsonl").read_text().splitlines()]
    assert sorted(one for row in queue for one in row["superseded"]) == ["f1", "f2", "f4"]
    assert {row["prompt"][0]["content"] for row in queue} == {"P1", "P2"}


def pairs_by(folder: Path, path: str, **feedback: Any) -> list[Record]:
    source = FeedbackSource(format="records", path=Path(path))
    config = FeedbackConfig.model_validate(feedback)
    new = folder / "new"
    parts = converted([source], config, DataConfig(max_rejected=0.5), new, new / "rejected.jsonl")
    write_pairs(folder / "pairs.parquet", parts)
    return read_pairs(folder / "pairs.parquet")


def test_noise_fitted_battles_and_annotators_reach_the_table(tmp_path: Path) -> None:
    path = file_of(tmp_path, study(40))
    assert {row["noise_prob"] for row in pairs_by(tmp_path, path)} == {None}
    noisy = pairs_by(tmp_path, path, noise="dawid_skene")
    assert len({row["noise_prob"] for row in noisy}) > 1
    assert all(0 <= row["noise_prob"] < 0.5 for row in noisy)
    fitted = pairs_by(tmp_path, path, comparisons={"pairs": "fitted", "z": 0})
    assert fitted and all(0.5 < row["target_prob"] < 1 for row in fitted)
    members = [
        {"annotator_id": "ann", "kind": "human", "gold_n": 0, "wilson_lb": 0.9},
        {"annotator_id": "coin", "kind": "human", "gold_n": 0, "wilson_lb": 0.3},
    ]
    table = tmp_path / "annotators.parquet"
    write_table(table, [completed(one, ANNOTATOR) for one in members], ANNOTATOR)
    some = pairs_by(tmp_path, path, annotators=table)
    assert {name for row in some for name in row["annotator_ids"]} == {"ann", "coin"}
    best = pairs_by(tmp_path, path, annotators=table, min_gold_agreement=0.8)
    assert {name for row in best for name in row["annotator_ids"]} == {"ann"}
    late = [completed(members[0] | {"qualified_from": DAY + timedelta(days=1)}, ANNOTATOR)]
    write_table(table, late, ANNOTATOR)
    assert pairs_by(tmp_path, path, annotators=table) == []


def test_convert_says_who_is_excluded(feedback: Align, tmp_path: Path) -> None:
    path, table = file_of(tmp_path, study(10)), tmp_path / "annotators.parquet"
    row = completed({"annotator_id": "ann", "kind": "human", "gold_n": 0}, ANNOTATOR)
    write_table(table, [row], ANNOTATOR)
    printed = feedback(
        *("convert", path, "--out", str(tmp_path / "p.parquet")),
        *("--set", f"feedback.annotators={table}"),
    )
    assert "comparison 30 0 20 0 10" in words(printed)
    assert "by annotators who do not count (feedback.annotators and" in printed


def test_a_missing_table_of_annotators_is_told_before_a_run(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.parquet"
    config = default_config("x", [f"feedback.annotators={path}"])
    with pytest.raises(UserError, match=f"feedback.annotators: {path} does not exist"):
        check_inputs(config, ("rm",))
