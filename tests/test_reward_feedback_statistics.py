"""Statistics of raw feedback agree with counts by hand, and find what was planted."""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest

from align.data.config import FeedbackSource
from align.data.feedback import read_feedback
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.questionnaires import QUESTIONNAIRES
from align.data.schemas import FEEDBACK, Record, completed
from align.data.validate import validate_record
from align.reward.feedback_statistics import (
    EQUALLY_LONG,
    NO_COUPLES,
    Agreement,
    Missing,
    Rate,
    agreement_of,
    conflict_rate,
    counts_by,
    durations,
    failure_rates,
    gold_share,
    length_bias,
    position_bias,
    skip_rate,
    statistics_of,
    tie_rate,
)
from align.reward.judged_pairs import judged_pairs, votes_by_item
from align.reward.reliability import wilson


def record(
    kind: str, fields: dict[str, Any], texts: str = "AB", annotator: str = "ann", **changes: Any
) -> Record:
    """A valid record; every letter of `texts` is an answer."""
    made = header(
        kind,
        f"f{random.random()}",
        user("Hi"),
        [assistant(text) for text in texts],
        source="ours",
        license=None,
        annotator_id=annotator,
        guideline_version="1",
    )
    made = completed(made | fields | changes, FEEDBACK[kind])
    assert not validate_record(made)
    return made


def vote(outcome: str, annotator: str = "ann", texts: str = "AB", **changes: Any) -> Record:
    return record("comparison", {"outcome": outcome}, texts, annotator, **changes)


def ranking(*ranks: int, texts: str, annotator: str = "ann") -> Record:
    return record("ranking", {"ranks": list(ranks)}, texts, annotator)


def best_of(place: int | None, texts: str) -> Record:
    return record("best_of", {"best_index": place, "none_acceptable": place is None}, texts)


def overall(value: int | None) -> Record:
    answers = [
        {
            "question_id": "q",
            "criterion": "overall",
            "option": "yes",
            "value": 1.0,
            "weight": 1.0,
            "gate": False,
        }
    ] * (2 if value is None else 0)
    return record("question", {"answers": answers, "questionnaire_version": "1", "overall": value})


def rate(successes: int, n: int) -> Rate:
    share = wilson(successes, n)
    return Rate(n, successes / n, share.low, share.high)


@pytest.mark.parametrize(
    ("judgement", "pairs"),
    [
        (vote("a"), [(0, 1, 1)]),
        (vote("b"), [(0, 1, -1)]),
        (vote("tie"), [(0, 1, 0)]),
        (vote("skip"), []),
        (ranking(2, 1, 2, texts="ABC"), [(0, 1, -1), (0, 2, 0), (1, 2, 1)]),
        (best_of(1, "ABC"), [(1, 0, 1), (1, 2, 1)]),
        (best_of(None, "ABC"), []),
        (overall(-2), [(0, 1, -1)]),
        (overall(0), [(0, 1, 0)]),
        (overall(None), []),
    ],
)
def test_every_kind_says_which_of_two_answers_is_better(
    judgement: Record, pairs: list[tuple[int, int, int]]
) -> None:
    assert [tuple(pair) for pair in judged_pairs(judgement)] == pairs


def test_votes_on_two_answers_meet_whatever_side_they_were_on() -> None:
    records = [vote("a", "x"), vote("b", "y", "BA"), ranking(1, 2, texts="AB", annotator="z")]
    ((item, votes),) = votes_by_item(records).items()
    assert len(set(votes.values())) == 1 and set(votes) == {"x", "y", "z"}
    assert item[2] < item[3]


def test_records_are_counted_by_any_field() -> None:
    records = [vote("a", "y"), vote("a", "x"), vote("a", "y"), ranking(1, 2, texts="AB")]
    assert counts_by(records, "annotator_id") == {"y": 2, "ann": 1, "x": 1}
    assert list(counts_by(records, "kind")) == ["comparison", "ranking"]


def test_ties_are_a_share_of_judged_pairs_and_skips_of_comparisons() -> None:
    records = [vote("tie"), vote("a"), vote("skip"), ranking(1, 1, 2, texts="ABC")]
    assert tie_rate(records) == rate(2, 5)
    assert skip_rate(records) == rate(1, 3)


def test_gold_is_a_share_of_all_records() -> None:
    assert gold_share([vote("a", gold=True), vote("a"), vote("b"), vote("b")]) == rate(1, 4)


def test_a_conflict_is_two_people_who_say_different_things_of_the_same_two_answers() -> None:
    records = [
        *(vote("a", "x"), vote("b", "y", "BA"), vote("tie", "z")),  # x and y agree, z with neither
        vote("b", "w", criterion="honest"),  # another criterion
        vote("b", "w", "AC"),  # other answers
        vote("skip", "v"),
    ]
    assert conflict_rate(records) == rate(2, 3)


def test_who_judges_twice_has_one_voice_and_no_conflict_with_themselves() -> None:
    assert conflict_rate([vote("a", "x"), vote("b", "x")]) == Missing(NO_COUPLES)
    assert conflict_rate([vote("a", "x"), vote("b", "x"), vote("b", "y")]) == rate(0, 1)


def slow_conflicts(records: list[Record]) -> tuple[int, int]:
    """Every two annotators and every two answers, one after the other."""
    conflicts = n = 0
    for ours, theirs in combinations(sorted({one["annotator_id"] for one in records}), 2):
        for first, second in combinations("ABCD", 2):
            said = []
            for name in (ours, theirs):
                sides = {first + second: {"a": 1, "b": -1, "tie": 0}}
                sides[second + first] = {"a": -1, "b": 1, "tie": 0}
                mine = [
                    sides[texts][one["outcome"]]
                    for one in records
                    if one["annotator_id"] == name
                    and (texts := "".join(turns[0]["content"] for turns in one["completions"]))
                    in sides
                ]
                said += mine[-1:]
            if len(said) == 2:
                n += 1
                conflicts += said[0] != said[1]
    return conflicts, n


def test_conflicts_and_the_matrix_agree_with_a_slow_count() -> None:
    draw = random.Random(1)
    sides = ["".join(two) for two in permutations("ABCD", 2)]
    records = [
        vote(draw.choice(["a", "b", "tie"]), f"w{draw.randrange(6)}", draw.choice(sides))
        for _ in range(150)
    ]
    conflicts, n = slow_conflicts(records)
    assert conflict_rate(records) == rate(conflicts, n)
    matrix = agreement_of(records)
    assert sum(map(sum, matrix.n)) == 2 * n
    assert sum(map(sum, matrix.agreed)) == 2 * (n - conflicts)


def test_the_matrix_holds_the_busiest_annotators() -> None:
    records = [vote("a", "x"), vote("a", "y"), vote("b", "z"), vote("a", "z", "AC")]
    assert agreement_of(records) == Agreement(
        ["z", "x", "y"], [[0, 1, 1], [1, 0, 1], [1, 1, 0]], [[0, 0, 0], [0, 0, 1], [0, 1, 0]],
        3, rate(1, 3),
    )  # fmt: skip
    assert agreement_of(records, most=1) == Agreement(["z"], [[0]], [[0]], 3, rate(1, 3))


def lengths(outcome: str, first: int, second: int) -> Record:
    completions = [assistant("x" * first), assistant("y" * second)]
    return vote(outcome, completions=completions)


def test_the_longer_answer_is_counted_by_characters_and_only_where_one_won() -> None:
    records = [
        *(lengths("a", 5, 2), lengths("b", 5, 2), lengths("b", 1, 2)),
        *(lengths("tie", 5, 2), lengths("a", 2, 2), lengths("skip", 5, 2)),
    ]
    assert length_bias(records) == rate(2, 3)
    assert length_bias([vote("a", completions=[assistant("唐詩"), assistant("b")])]) == rate(1, 1)


def test_what_has_no_case_says_why() -> None:
    equal = [lengths("a", 3, 3), lengths("b", 3, 3)]
    assert length_bias(equal) == Missing(EQUALLY_LONG)
    assert length_bias([lengths("tie", 3, 2)]) == Missing("no answer was found better than another")
    assert position_bias(equal) == Missing("who was shown first is not recorded")
    assert position_bias([vote("tie")]) == Missing("no comparison was decided")
    assert position_bias([]) == skip_rate([]) == Missing("there are no comparisons")
    assert tie_rate([]) == Missing("no two answers were compared")
    assert gold_share([]) == Missing("no records")


def test_a_planted_taste_for_length_and_for_the_first_place_is_found() -> None:
    draw = random.Random(2)

    def biased() -> Iterator[Record]:
        for _ in range(2000):
            longer, order = draw.choice("ab"), draw.choice([[0, 1], [1, 0]])
            sizes = (9, 3) if longer == "a" else (3, 9)
            shorter = "ab".replace(longer, "")
            outcome = longer if draw.random() < 0.7 else shorter
            if draw.random() < 0.2:
                outcome = "ab"[order[0]]
            yield lengths(outcome, *sizes) | {"display_order": order}

    records = list(biased())
    length, position = length_bias(records), position_bias(records)
    assert isinstance(length, Rate) and length.low < 0.8 * 0.7 + 0.2 * 0.5 < length.high
    assert isinstance(position, Rate) and position.low < 0.2 + 0.8 * 0.5 < position.high
    assert position.low > 0.5


def test_the_place_on_the_screen_counts_where_it_is_known() -> None:
    records = [
        vote("a", display_order=[0, 1]),
        vote("a", display_order=[1, 0]),
        vote("b", display_order=[1, 0]),
        vote("a"),
        vote("tie", display_order=[0, 1]),
        ranking(1, 2, texts="AB") | {"display_order": [0, 1]},
    ]
    assert position_bias(records) == rate(2, 3)


def test_failures_are_counted_where_a_ready_questionnaire_asked_about_them() -> None:
    asked = QUESTIONNAIRES["harmless-1"]
    chosen = [("yes", "no"), ("no", "yes"), ("not applicable", "no"), ("no", "no")]
    records = [
        record(
            "question",
            {
                "answers": [
                    question.given({"complies": complies, "biased": biased}.get(question.id, "no"))
                    for question in asked
                ],
                "questionnaire_version": "harmless-1",
            },
            "A",
        )
        for complies, biased in chosen
    ]
    assert failure_rates(records) == {"harmful": rate(1, 3), "biased": rate(1, 4)}
    assert failure_rates([one | {"questionnaire_version": "mine"} for one in records]) == {}


def test_durations_are_quantiles_of_what_was_measured() -> None:
    found = durations([vote("a", duration_s=float(s)) for s in range(11)] + [vote("a")])
    assert found is not None
    assert (found.n, found.low, found.median, found.high) == (11, 1.0, 5.0, 9.0)
    assert durations([vote("a")]) is None


def test_statistics_of_nothing_are_empty_and_all_are_json() -> None:
    empty = asdict(statistics_of([]))
    assert empty["records"] == 0 and "reason" in empty["ties"] and empty["by_kind"] == {}
    filled = asdict(statistics_of([vote("a", "x"), vote("b", "y", display_order=[0, 1])]))
    assert json.loads(json.dumps(filled, allow_nan=False)) == filled
    assert filled["conflicts"]["share"] == 1.0


def test_a_hundred_thousand_votes_on_two_answers_are_counted_at_once() -> None:
    base = vote("a")
    records = [
        base | {"annotator_id": f"w{place}", "outcome": "ab"[place % 2]} for place in range(100_000)
    ]
    conflicts = conflict_rate(records)
    assert isinstance(conflicts, Rate) and conflicts.share == pytest.approx(0.5, abs=1e-4)
    assert len(agreement_of(records).annotators) == 20


def test_all_three_annotators_of_pandalm_agree_on_88_percent(shared: Path, tmp_path: Path) -> None:
    source = FeedbackSource(format="pandalm", path=shared / "data/feedback/pandalm")
    records = read_feedback([source], 0.01, tmp_path / "rejected.jsonl")
    items = votes_by_item(records).values()
    unanimous = sum(len(set(votes.values())) == 1 for votes in items) / len(items)
    assert unanimous == pytest.approx(0.88, abs=0.005)
    found = statistics_of(records)
    assert isinstance(found.conflicts, Rate) and found.conflicts.n == 3 * len(items)
    # Where three disagree, mostly one stands alone: two of the three couples are in conflict.
    assert found.conflicts.share == pytest.approx((1 - unanimous) * 2 / 3, abs=0.005)
    assert found.first_won == Missing(
        "who was shown first is not recorded"
    ) and found.by_source == {"pandalm": 2979}
