"""Every pair is rebuilt from the records that it names, and nobody else's records touch it."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.data.config import FeedbackSource
from align.data.feedback import read_feedback
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import FEEDBACK, Preference, Record, completed
from align.data.validate import validate_record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.feedback.strengths import strengths

# How a pair stands to the others of its group, and by the first name of which group.
OF_THE_GROUP = {"weight", "group_weight", "group_size", "group_id", "feedback_kind", "rule_id"}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"ties": "drop", "margins": "all"},
    {"rules": {"pairs": "lexicographic", "hard": ["kind", "brief"]}},
    {"questions": {"mode": "overall"}},
]

FITTED = {"comparisons": {"pairs": "fitted", "z": 0}, "margins": "none"}
"""Its pairs rest on all battles of their group, and name those of their two answers."""


def pairs(
    records: Sequence[Record], settings: dict[str, Any], **more: Any
) -> dict[str, Preference]:
    """Rows of the table by pair_id."""
    config = FeedbackConfig.model_validate(settings)
    parts = convert(records, config, 0.3, fit=strengths, **more)
    return {row["pair_id"]: row for part in parts for row in part.pairs.to_pylist()}


def own(row: Preference) -> Preference:
    """What follows from the pair's records alone."""
    return {name: value for name, value in row.items() if name not in OF_THE_GROUP}


def mixture(seed: int, prompts: str = "pq") -> list[Record]:
    """150 records of all kinds by people and models, on answers to a few prompts."""
    chance = random.Random(seed)
    records = []
    for place in range(150):
        kind = chance.choice(list(FEEDBACK))
        size = {"comparison": 2, "rule": 1, "rbrm": 1}.get(kind, chance.choice([2, 3, 4]))
        size = chance.choice([1, 2]) if kind == "question" else size
        answers = chance.sample("abcde", size)
        rule = chance.choice(["kind", "brief", "calm"])
        made = header(
            kind,
            f"f{place}",
            user(chance.choice(prompts)),
            [assistant(f"text {answer}") for answer in answers],
            source=chance.choice(["s", "t"]),
            license=None,
            annotator_id=chance.choice(["ann", "bob", "cy"]),
            annotator_kind="model" if kind == "rbrm" else "human",
            guideline_version=chance.choice(["1", "2"]),
            criterion=f"rule:{rule}" if kind == "rule" else chance.choice(["overall", "helpful"]),
            completion_ids=answers,
            created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=place),
        )
        records.append(completed(made | JUDGEMENTS[kind](chance, size, rule), FEEDBACK[kind]))
    assert [problem for one in records for problem in validate_record(one)] == []
    return records


def ranking(chance: random.Random, size: int, rule: str) -> Record:
    ranks = [chance.randint(1, size) for _ in range(size)]
    return {"ranks": [sorted(set(ranks)).index(rank) + 1 for rank in ranks]}


def question(chance: random.Random, size: int, rule: str) -> Record:
    asked = [
        {
            "question_id": f"q{number}",
            "criterion": chance.choice(["helpful", "honest"]),
            "weight": chance.choice([0.0, 0.5, 7.0]),
            "gate": number == 2,
        }
        for number in range(3)
    ]
    values = [chance.choice([0.0, 0.3, 1.0]) for _ in range(3 * size)]
    answers = [
        one | {"option": str(value), "value": value}
        for one, value in zip(asked * size, values, strict=True)
    ]
    overall = chance.randint(-2, 2) if size == 2 else None
    return {"questionnaire_version": "1", "answers": answers, "overall": overall}


def rbrm(chance: random.Random, size: int, rule: str) -> Record:
    options = {"option_ids": ["A", "B"], "option_logprobs": [-0.1, -2.3], "chosen_option": "A"}
    judge = {"judge_id": "j", "prompt_class": "benign", "n_permutations": 2}
    rubric = {"rubric_id": "r", "rubric_version": chance.choice("12")}
    return options | judge | rubric | {"reward": chance.choice([-1.0, 0.5, 0.52, 2.0])}


JUDGEMENTS: dict[str, Callable[[random.Random, int, str], Record]] = {
    "ranking": ranking,
    "question": question,
    "rbrm": rbrm,
    "best_of": lambda chance, size, rule: {
        "best_index": chance.randrange(size),
        "none_acceptable": False,
    },
    "comparison": lambda chance, size, rule: {
        "outcome": chance.choice(["a", "b", "tie", "skip"]),
        "strength": chance.choice([None, 1, 3]),
    },
    "rule": lambda chance, size, rule: {
        "rule_id": rule,
        "rule_text": rule,
        "ruleset_version": "1",
        "severity": chance.randint(1, 5),
        "adversarial": False,
    },
}


def real(shared: Path, folder: Path, name: str) -> list[Record]:
    path = shared / "data" / "feedback" / name
    source = FeedbackSource.model_validate(
        {"format": name.replace("-", "_"), "path": path, "rows": 500}
    )
    return read_feedback([source], 0.01, folder / "rejected.jsonl")


def rebuilt_from_what_they_name(
    records: Sequence[Record], settings: dict[str, Any], most: int
) -> int:
    """How many pairs were rebuilt, each from its own records alone."""
    every = pairs(records, settings)
    picked = random.Random(0).sample(sorted(every), min(most, len(every)))
    for name in picked:
        named = set(every[name]["feedback_ids"])
        mine = [one for one in records if one["feedback_id"] in named]
        assert len(mine) == len(named)
        assert own(pairs(mine, settings)[name]) == own(every[name])
        assert {one["annotator_id"] for one in mine} == set(every[name]["annotator_ids"])
    return len(picked)


def without_an_annotator(
    records: Sequence[Record], settings: dict[str, Any], annotator: str
) -> None:
    """Pairs of others are as they were, and pairs of nobody else are gone."""
    every = pairs(records, settings)
    rest = [one for one in records if one["annotator_id"] != annotator]
    left = pairs(rest, settings)
    theirs = {name for name, row in every.items() if annotator in row["annotator_ids"]}
    for name in every.keys() - theirs:
        assert own(left[name]) == own(every[name])
    for name in every.keys() - left.keys():
        assert name in theirs
    assert all(annotator not in row["annotator_ids"] for row in left.values())


def counted_out(records: Sequence[Record], settings: dict[str, Any], annotator: str) -> None:
    """To leave somebody out by the table of annotators is to have no record of theirs."""
    rest = [one for one in records if one["annotator_id"] != annotator]
    counted = pairs(
        records, settings, counted=lambda t: np.array(t["annotator_id"].to_pylist()) != annotator
    )
    assert counted == pairs(rest, settings)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(2))
def test_pairs_of_odd_mixtures_are_rebuilt_from_the_records_that_they_name(
    seed: int, settings: dict[str, Any]
) -> None:
    assert rebuilt_from_what_they_name(mixture(seed), settings, 8) == 8


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("annotator", ["ann", "bob", "cy"])
def test_without_an_annotator_of_an_odd_mixture_exactly_that_contribution_is_gone(
    annotator: str, settings: dict[str, Any]
) -> None:
    without_an_annotator(mixture(5), settings, annotator)


@pytest.mark.parametrize("settings", [*SETTINGS, FITTED])
def test_an_annotator_who_does_not_count_might_as_well_not_be_there(
    settings: dict[str, Any],
) -> None:
    for annotator in ("ann", "bob", "cy"):
        counted_out(mixture(6), settings, annotator)


@pytest.mark.parametrize("name", ["llmfao", "pandalm", "oasst", "rbr", "truthfulqa-judge"])
def test_real_pairs_are_rebuilt_from_the_records_that_they_name(
    shared: Path, tmp_path: Path, name: str
) -> None:
    assert rebuilt_from_what_they_name(real(shared, tmp_path, name), {}, 5) == 5


@pytest.mark.parametrize(
    ("name", "most"), [("llmfao", 2), ("pandalm", 1), ("rbr", 1), ("truthfulqa-judge", 1)]
)
def test_without_a_real_annotator_exactly_that_contribution_is_gone(
    shared: Path, tmp_path: Path, name: str, most: int
) -> None:
    records = real(shared, tmp_path, name)
    for annotator in sorted({one["annotator_id"] for one in records})[:most]:
        without_an_annotator(records, {}, annotator)
        counted_out(records, {}, annotator)


def test_the_order_of_the_records_changes_nothing_of_a_pair() -> None:
    """`Q` and `q` are one prompt under two ids."""
    records = mixture(7, "pqQ")
    every = pairs(records, {})
    assert len({row["prompt_id"] for row in every.values()}) == 2
    random.Random(1).shuffle(records)
    assert pairs(records, {}) == every
