"""Votes on pairs, what is true of them by Dawid-Skene, and the options that rest on them."""

import math
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from align.data.errors import DataError, UserError
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.record_batches import record_batch
from align.data.schemas import ANNOTATOR, FEEDBACK, Preference, Record, completed, write_table
from align.reward.annotators.members import members_only, read_annotators
from align.reward.annotators.noise import smoothed
from align.reward.annotators.votes import LARGER, SMALLER, TIE, Votes
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.feedback.kinds import Options
from align.reward.feedback.pair_ids import pair_ids
from align.reward.feedback.strengths import strengths
from align.reward.feedback.truth import MOST_NOISE, Truth, noise_of
from align.reward.feedback.votes import votes_on_pairs

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def record(kind: str, name: str, texts: str, prompt: str = "Hi", **fields: Any) -> Record:
    made = header(
        kind,
        name,
        user(prompt),
        [assistant(text) for text in texts],
        source=fields.pop("source", "test"),
        license=None,
        annotator_id=fields.pop("annotator_id", "ann"),
        guideline_version="1",
        completion_ids=list(texts),
        created_at=fields.pop("created_at", DAY),
    )
    return completed(made | fields, FEEDBACK[kind])


def battle(name: str, answers: str, outcome: str, **fields: Any) -> Record:
    return record("comparison", name, answers, outcome=outcome, **fields)


def votes_in(records: list[Record], **feedback: Any) -> Votes:
    tables = {}
    for kind in {one["kind"] for one in records}:
        mine = [one for one in records if one["kind"] == kind]
        tables[kind] = pa.Table.from_batches([record_batch(mine)])
    return votes_on_pairs([tables], Options(FeedbackConfig.model_validate(feedback)))


def said(votes: Votes) -> list[tuple[str, int]]:
    """Annotator and label of every vote."""
    names = [votes.annotators[place] for place in votes.annotator_N]
    return sorted(zip(names, votes.label_N.tolist(), strict=True))


def pair_id(low: str, high: str, prompt: Record) -> str:
    columns = [[prompt["prompt_id"]], [low], [high], [prompt["criterion"]]]
    (name,) = pair_ids(*(pa.array(column) for column in columns)).to_pylist()
    return str(name)


def pairs(records: Iterable[Record], **feedback: Any) -> list[Preference]:
    config = FeedbackConfig.model_validate(feedback)
    more: dict[str, Any] = {}
    if config.comparisons.pairs == "fitted":
        more["fit"] = strengths
    return [row for one in convert(records, config, 0.1, **more) for row in one.pairs.to_pylist()]


def test_a_vote_is_on_the_answers_and_not_on_the_sides() -> None:
    one, other = battle("f", "ab", "a"), battle("g", "ba", "a", annotator_id="bob")
    votes = votes_in([one, other, battle("h", "ab", "tie", annotator_id="cy")])
    assert said(votes) == [("ann", SMALLER), ("bob", LARGER), ("cy", TIE)]
    assert votes.items == (pair_id("a", "b", one),)


def test_who_judges_again_counts_once_with_the_newest_judgement() -> None:
    later = battle("a", "ab", "b", created_at=DAY + timedelta(days=1))
    assert said(votes_in([later, battle("f", "ab", "a")])) == [("ann", LARGER)]


def test_skips_and_answers_of_one_text_are_no_votes() -> None:
    same = battle("g", "ab", "a")
    same["completions"][1] = same["completions"][0]
    assert said(votes_in([battle("f", "cd", "skip"), same])) == []


def test_a_ranking_is_a_vote_on_every_two_answers() -> None:
    votes = votes_in([record("ranking", "f", "abc", ranks=[1, 2, 2])])
    assert sorted(votes.label_N.tolist()) == [SMALLER, SMALLER, TIE]


def test_answers_graded_one_by_one_are_compared_for_each_annotator() -> None:
    def graded(name: str, answer: str, severity: int, who: str) -> Record:
        return record(
            "rule", name, answer, severity=severity, annotator_id=who, criterion="rule:r",
            rule_id="r", rule_text="R.", ruleset_version="1", adversarial=False,
        )  # fmt: skip

    grades = [graded("f", "a", 1, "x"), graded("g", "b", 5, "x"), graded("h", "a", 5, "y")]
    assert said(votes_in(grades)) == [("x", SMALLER)]  # x and y are never compared
    hard = {"rules": {"pairs": "lexicographic", "hard": ["r"]}}
    assert said(votes_in([*grades, graded("i", "b", 1, "y")], **hard)) == [
        ("x", SMALLER),
        ("y", LARGER),
    ]


def test_no_records_are_no_votes() -> None:
    votes = votes_on_pairs([{}], Options(FeedbackConfig()))
    assert votes.items == votes.annotators == ()


ACCURACY = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.55, "e": 0.2}


def planted(prompts: int = 400) -> list[Record]:
    """Every other answer a is the better one; annotators say so as often as they are right."""
    chance = random.Random(5)
    return [
        battle(
            f"{prompt}-{who}",
            "ab",
            "ab"[(prompt + (chance.random() > right)) % 2],
            prompt=f"P{prompt}",
            annotator_id=who,
        )
        for prompt in range(prompts)
        for who, right in ACCURACY.items()
    ]


def test_noise_is_how_often_labels_of_planted_annotators_are_wrong() -> None:
    votes = planted()
    plain, noisy = pairs(votes), pairs(votes, noise="dawid_skene")
    assert {row["noise_prob"] for row in plain} == {None}
    for before, after in zip(plain, noisy, strict=True):
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"noise_prob", "converter_config_sha256"}  # targets stay the votes
    better = {row["prompt_id"]: "ab"[place // len(ACCURACY) % 2] for place, row in enumerate(votes)}
    for low, high in ((0, 0.1), (0.1, 0.4), (0.4, 0.5)):
        some = [row for row in noisy if low <= row["noise_prob"] < high]
        wrong = np.mean([row["chosen_id"] != better[row["prompt_id"]] for row in some])
        expected = np.mean([row["noise_prob"] for row in some])
        assert len(some) > 20
        # Where reliable people are outvoted, the votes are wrong more often than not.
        assert wrong == pytest.approx(expected, abs=0.1) if high < 0.5 else wrong > 0.5


def test_noise_is_that_of_the_chosen_side_and_ties_have_none() -> None:
    truth = Truth(pa.array(["x", "y"]), np.array([0.9, 0.2]))
    names = pa.array(["x", "x", "y", "nobody", "y"])
    chosen_is_smaller = np.array([True, False, False, True, True])
    found = noise_of(truth, names, chosen_is_smaller, np.array([False] * 4 + [True]))
    assert found.to_pylist() == [
        pytest.approx(0.1),
        pytest.approx(MOST_NOISE),
        pytest.approx(0.2),
        None,
        None,
    ]


def test_nothing_is_known_of_an_annotator_whom_nobody_can_be_compared_with() -> None:
    alone = [battle("f", "ab", "a"), battle("g", "cd", "a", annotator_id="bob")]
    assert [row["noise_prob"] for row in pairs(alone, noise="dawid_skene")] == [None, None]
    more = [*alone, battle("h", "ef", "a"), battle("i", "ef", "a", annotator_id="cy")]
    found = {row["chosen_id"]: row["noise_prob"] for row in pairs(more, noise="dawid_skene")}
    assert found["c"] is None and 0 < found["a"] < 0.5 and 0 < found["e"] < 0.5


def test_ties_and_skips_alone_have_no_noise() -> None:
    (tie,) = pairs([battle("f", "ab", "tie")], noise="dawid_skene")
    assert tie["noise_prob"] is None
    assert pairs([battle("f", "ab", "skip")], noise="dawid_skene") == []


def test_votes_do_not_make_the_verdict_of_a_hard_rule_doubtful() -> None:
    graded = [
        record(
            "rule", f"{answer}{severity}", answer, severity=severity, criterion="rule:r",
            rule_id="r", rule_text="R.", ruleset_version="1", adversarial=False,
        )
        for answer, severity in (("a", 1), ("b", 5))
    ]  # fmt: skip
    votes = [
        battle(f"{who}{both}", both, "b", annotator_id=who)
        for who in "xyz"
        for both in ("ab", "cd")
    ]
    hard = {"pairs": "lexicographic", "hard": ["r"]}
    made = {
        row["chosen_id"]: row for row in pairs([*graded, *votes], noise="dawid_skene", rules=hard)
    }
    assert made["a"]["criterion"] == "overall" and made["a"]["noise_prob"] is None
    assert 0 < made["d"]["noise_prob"] < 0.5


def test_noise_does_not_depend_on_how_records_are_cut_into_slices() -> None:
    votes = planted(60)
    config = FeedbackConfig(noise="dawid_skene")
    cut = [part.pairs.to_pylist() for part in convert(votes, config, 0.1, run_bytes=20_000)]
    assert len(cut) > 1
    assert [row for rows in cut for row in rows] == pairs(votes, noise="dawid_skene")


def test_smoothing_by_no_noise_is_exactly_nothing() -> None:
    for target in (0.5, 2 / 3, 0.7, 1.0):
        assert smoothed(target, 0.0) == target
    assert smoothed(1.0, 0.2) == pytest.approx(0.8) and smoothed(0.5, 0.3) == 0.5


def test_fitted_strengths_recover_planted_ones_and_pair_answers_that_never_met() -> None:
    chance = random.Random(1)
    true = dict(zip("abcd", (1.2, 0.4, -0.4, -1.2), strict=True))
    votes = [
        battle(
            f"{one}{other}{i}",
            one + other,
            "ab"[chance.random() > 1 / (1 + math.exp(true[other] - true[one]))],
        )
        for one, other in combinations("abcd", 2)
        if (one, other) != ("a", "d")
        for i in range(200)
    ]
    rows = {
        (row["chosen_id"], row["rejected_id"]): row
        for row in pairs(votes, comparisons={"pairs": "fitted"})
    }
    assert set(rows) == set(combinations("abcd", 2))
    assert rows["a", "d"]["margin"] == pytest.approx(2.4, abs=0.35)
    assert rows["a", "d"]["target_prob"] == pytest.approx(1 / (1 + np.exp(-2.4)), abs=0.04)


def test_an_undefeated_answer_has_a_finite_strength_and_two_cliques_no_common_scale() -> None:
    found = strengths(np.array([0, 0, 2]), np.array([1, 1, 3]), np.array([1.0, 1.0, 0.0]))
    assert np.isfinite(found.strength_P).all()
    assert np.isfinite(found.errors(np.array([0, 2]), np.array([1, 3]))).all()
    assert found.strength_P[0] > found.strength_P[1]
    assert found.component_P[0] == found.component_P[1] != found.component_P[2]


def annotator(name: str, **fields: Any) -> Record:
    return completed({"annotator_id": name, "kind": "human", "gold_n": 0} | fields, ANNOTATOR)


def counted(
    folder: Path, rows: list[Record], records: list[Record], least: float = 0
) -> list[bool]:
    write_table(folder / "annotators.parquet", rows, ANNOTATOR)
    table = pa.Table.from_batches([record_batch(records)])
    flags: list[bool] = members_only(folder / "annotators.parquet", least)(table).tolist()
    return flags


def test_only_annotators_in_the_table_count_and_only_while_they_are_members(
    tmp_path: Path,
) -> None:
    rows = [
        annotator("always"),
        annotator("dated", qualified_from=DAY, qualified_to=DAY + timedelta(days=2)),
        annotator("dated", qualified_from=DAY + timedelta(days=5)),
    ]
    votes = [
        battle(f"{who}{day}", "ab", "a", annotator_id=who, created_at=DAY + timedelta(days=day))
        for who in ("always", "dated", "stranger")
        for day in (-1, 0, 3, 6)
    ]
    assert counted(tmp_path, rows, votes) == [True] * 4 + [False, True, False, True] + [False] * 4


def test_who_agrees_too_little_with_gold_does_not_count(tmp_path: Path) -> None:
    rows = [
        annotator("good", gold_n=200, wilson_lb=0.91),
        annotator("poor", gold_n=200, wilson_lb=0.4),
        annotator("unknown"),
    ]
    votes = [
        battle(row["annotator_id"], "ab", "a", annotator_id=row["annotator_id"]) for row in rows
    ]
    assert counted(tmp_path, rows, votes, least=0.7) == [True, False, False]


def test_a_table_of_annotators_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "annotators.jsonl"
    with pytest.raises(DataError, match="no such file"):
        read_annotators(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        read_annotators(path)
    path.write_text('{"annotator_id": "x", "kind": "human", "gold_n": "many"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"annotators\.jsonl:1: gold_n: must be"):
        read_annotators(path)


def test_screening_needs_a_table_of_annotators() -> None:
    with pytest.raises(ValidationError, match=r"min_gold_agreement \(0\.8\) needs"):
        FeedbackConfig(min_gold_agreement=0.8)


def test_one_annotator_of_two_kinds_is_one_line() -> None:
    votes = [battle("f", "ab", "a"), battle("g", "cd", "a", annotator_kind="model")]
    with pytest.raises(UserError, match="annotator ann is"):
        pairs(votes, noise="dawid_skene")
