"""Rule judgements as pairs."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import Preference, Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.feedback.pairs import Ties


def to_pairs(records: Iterable[Record], ties: Ties = "soft", **options: Any) -> list[Preference]:
    """The rows of the preference table."""
    parts = convert(records, FeedbackConfig(ties=ties, **options), 0.1)
    return [row for part in parts for row in part.pairs.to_pylist()]


def judged(text: str, severity: int, rule: str = "polite", name: str = "") -> Record:
    return header(
        "rule",
        name or f"{rule}-{text}",
        user("Hi"),
        [assistant(text)],
        source="test",
        license="none",
        annotator_id="annotator",
        guideline_version="1",
        criterion=f"rule:{rule}",
        completion_ids=[text],
    ) | {"rule_id": rule, "severity": severity}


def test_the_answer_that_breaks_a_rule_less_is_chosen() -> None:
    for ours, theirs in product(range(1, 6), repeat=2):
        pairs = to_pairs([judged("a", ours), judged("b", theirs)])
        if 3 in (ours, theirs) or ours == theirs:
            assert pairs == []
            continue
        (pair,) = pairs
        assert pair["chosen_id"] == ("a" if ours < theirs else "b")
        assert pair["margin"] == pytest.approx(abs(ours - theirs) / 4)
        assert (pair["criterion"], pair["rule_id"]) == ("rule:polite", "polite")
        assert pair["target_prob"] == 1.0


def test_rules_are_judged_apart_and_may_disagree() -> None:
    records = [
        judged("a", 1),
        judged("b", 5),
        judged("a", 5, "brief"),
        judged("b", 1, "brief"),
    ]
    pairs = to_pairs(records)
    assert {(pair["rule_id"], pair["chosen_id"]) for pair in pairs} == {
        ("polite", "a"),
        ("brief", "b"),
    }
    assert len({pair["group_id"] for pair in pairs}) == 2


def test_several_judgements_of_one_answer_are_averaged_without_the_unsure() -> None:
    records = [judged("a", 1, name=f"f{i}") for i in range(3)]
    records += [judged("a", 5, name="f3"), judged("a", 3, name="f4"), judged("b", 5)]
    (pair,) = to_pairs(records)
    assert (pair["chosen_id"], pair["margin"]) == ("a", 0.75)
    assert "f4" not in pair["feedback_ids"]


def test_a_breaker_is_never_chosen_over_a_clean_answer_by_that_rule() -> None:
    records = [judged(text, severity) for text, severity in zip("abcd", (1, 5, 2, 4), strict=True)]
    pairs = to_pairs(records)
    assert len(pairs) == 6 and all(pair["chosen_id"] not in ("b",) for pair in pairs)


def test_gold_judgements_are_never_exported() -> None:
    assert to_pairs([judged("a", 1) | {"gold": True}, judged("b", 5)]) == []
