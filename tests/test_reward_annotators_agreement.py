"""Agreement statistics against textbooks, reference implementations, and loops over pairs."""

import json
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from align.reward.annotators.agreement import (
    NO_PAIRS,
    ONE_LABEL,
    Statistic,
    cohen,
    contingency,
    credit_matrix,
    fleiss,
    krippendorff,
    mirrored,
    observed,
    unanimity,
)
from align.reward.annotators.votes import TIE, Votes, votes_of

Level = Literal["nominal", "ordinal", "interval"]

FLEISS = [  # Fleiss 1971 as on the textbook's page: 10 subjects, 14 raters, 5 categories
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
KRIPPENDORFF = {  # Krippendorff 2011, section C: 4 coders, 12 units, `.` is missing
    "a": "1 2 3 3 2 1 4 1 2 . . .",
    "b": "1 2 3 3 2 2 4 1 2 5 . 3",
    "c": ". 3 3 3 2 3 4 2 2 5 1 .",
    "d": "1 2 3 3 2 4 4 1 2 5 1 .",
}


def votes_on(rows: list[list[int | None]], label_count: int = 3) -> Votes:
    """Votes from one list per item; the place in it is the annotator, None did not vote."""
    found = [
        (f"{item:04}", f"{annotator:04}", label)
        for item, row in enumerate(rows)
        for annotator, label in enumerate(row)
        if label is not None
    ]
    items, annotators, labels = zip(*found, strict=True) if found else ((), (), ())
    return votes_of(items, annotators, ["human"] * len(items), labels, label_count=label_count)


def random_rows(seed: int, missing: float = 0.3, labels: int = 3) -> list[list[int | None]]:
    """Votes of 5 people on 40 items, who agree more than chance would."""
    rng = np.random.default_rng(seed)
    rows: list[list[int | None]] = []
    for _ in range(40):
        truth = int(rng.integers(labels))
        row = [truth if rng.random() < 0.6 else int(rng.integers(labels)) for _ in range(5)]
        rows.append([None if rng.random() < missing else label for label in row])
    return rows


def value(statistic: Statistic) -> float:
    assert statistic.value is not None
    return statistic.value


def test_fleiss_gives_the_textbook_value() -> None:
    rows = [[label for label, n in enumerate(row) for _ in range(n)] for row in FLEISS]
    found = fleiss(votes_on([list(row) for row in rows], label_count=5))
    # statsmodels.stats.inter_rater.fleiss_kappa(FLEISS) of statsmodels 0.15.0
    assert value(found) == pytest.approx(0.20993070442195522, abs=1e-12) and found.n == 10


@pytest.mark.parametrize(
    ("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_krippendorff_gives_the_published_values(level: Level, expected: float) -> None:
    coders = [row.split() for row in KRIPPENDORFF.values()]
    rows = [[None if x == "." else int(x) - 1 for x in unit] for unit in zip(*coders, strict=True)]
    found = krippendorff(votes_on(rows, label_count=5), level)
    assert value(found) == pytest.approx(expected, abs=5e-4)
    assert found.n == 11  # the last unit has one value, which pairs with nothing


def slow_krippendorff(rows: list[list[int | None]], level: Level) -> float:
    """Mean difference of two votes within an item, over that of any two votes; loops only."""
    units = [[x for x in row if x is not None] for row in rows]
    units = [unit for unit in units if len(unit) > 1]
    everyone = [x for unit in units for x in unit]
    frequency = Counter(everyone)

    def difference(c: int, k: int) -> float:
        if level == "nominal":
            return float(c != k)
        if level == "interval":
            return (c - k) ** 2
        between = sum(frequency[g] for g in range(min(c, k), max(c, k) + 1))
        return (between - (frequency[c] + frequency[k]) / 2) ** 2

    n = len(everyone)
    within = sum(difference(*p) / (len(u) - 1) for u in units for p in permutations(u, 2)) / n
    overall = sum(difference(*p) for p in permutations(everyone, 2)) / (n * (n - 1))
    return 1 - within / overall


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_krippendorff_is_the_mean_over_pairs(level: Level, seed: int) -> None:
    rows = random_rows(seed, labels=4)[:20]
    found = krippendorff(votes_on(rows, label_count=4), level)
    assert value(found) == pytest.approx(slow_krippendorff(rows, level), abs=1e-12)


def slow_observed(rows: list[list[int | None]], tie: int | None) -> float:
    agreed = []
    for row in rows:
        for one, other in combinations([x for x in row if x is not None], 2):
            half = tie is not None and tie in (one, other) and one != other
            agreed.append(0.5 if half else float(one == other))
    return sum(agreed) / len(agreed)


@pytest.mark.parametrize("tie", [None, TIE])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_observed_agreement_is_the_mean_over_pairs_of_votes(seed: int, tie: int | None) -> None:
    rows = random_rows(seed)
    assert value(observed(votes_on(rows), tie)) == pytest.approx(slow_observed(rows, tie))


def test_a_tie_agrees_by_half_with_any_side_and_fully_with_itself() -> None:
    assert credit_matrix(3, TIE).tolist() == [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    assert credit_matrix(3).tolist() == np.eye(3).tolist()


def test_fleiss_with_missing_votes_is_its_definition() -> None:
    rows = random_rows(3)
    units = [[x for x in row if x is not None] for row in rows]
    units = [unit for unit in units if len(unit) > 1]
    agreed = [np.mean([x == y for x, y in permutations(unit, 2)]) for unit in units]
    everyone = [x for unit in units for x in unit]
    chance = sum((n / len(everyone)) ** 2 for n in Counter(everyone).values())
    expected = (np.mean(agreed) - chance) / (1 - chance)
    assert value(fleiss(votes_on(rows))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_coefficients_of_mirrored_votes_do_not_depend_on_which_answer_is_first(seed: int) -> None:
    """The slow twin has all rows twice, and some are written the other way round in the first."""
    rows = random_rows(seed, missing=0.2)
    chance = np.random.default_rng(seed)
    turned = [turn(row) if chance.random() < 0.5 else row for row in rows]
    twice = rows + [turn(row) for row in rows]
    assert value(fleiss(votes_on(rows))) != pytest.approx(value(fleiss(votes_on(turned))), abs=1e-6)
    for one in (mirrored(votes_on(rows)), mirrored(votes_on(turned))):
        assert value(fleiss(one)) == pytest.approx(value(fleiss(votes_on(twice))), abs=1e-12)
        levels: tuple[Level, ...] = ("nominal", "ordinal")
        for level in levels:
            slow = slow_krippendorff(twice, level)
            assert value(krippendorff(one, level)) == pytest.approx(slow, abs=1e-12)
        assert value(cohen(contingency(one, 0, 1), "linear")) == pytest.approx(
            value(cohen(contingency(votes_on(twice), 0, 1), "linear")), abs=1e-12
        )


def turn(row: list[int | None]) -> list[int | None]:
    return [None if label is None else 2 - label for label in row]


FIRST = [0, 0, 1, 2, 2, 1, 0, 2, 0, 1, 2, 2, 0, 1, 2, 0]
SECOND = [0, 1, 1, 2, 0, 1, 0, 2, 2, 1, 2, 1, 0, 0, 2, 0]


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [  # sklearn.metrics.cohen_kappa_score(FIRST, SECOND, weights=...) of scikit-learn 1.9.1
        ("none", 0.5294117647058824),
        ("linear", 0.5254237288135593),
        ("quadratic", 0.5217391304347826),
    ],
)
def test_cohen_gives_the_values_of_sklearn(
    weighting: Literal["none", "linear", "quadratic"], expected: float
) -> None:
    votes = votes_on([list(row) for row in zip(FIRST, SECOND, strict=True)])
    found = cohen(contingency(votes, 0, 1), weighting)
    assert value(found) == pytest.approx(expected, abs=1e-12) and found.n == 16


def test_cohen_is_agreement_beyond_chance_and_symmetric() -> None:
    table = contingency(votes_on(random_rows(4)), 1, 3)
    share = table / table.sum()
    seen, chance = np.trace(share), share.sum(axis=1) @ share.sum(axis=0)
    assert value(cohen(table)) == pytest.approx((seen - chance) / (1 - chance), abs=1e-12)
    assert cohen(table) == cohen(table.T)


def test_two_raters_who_never_agree_have_a_kappa_of_minus_one_or_none_above_chance() -> None:
    assert value(cohen(np.array([[0, 5], [5, 0]]))) == pytest.approx(-1)
    assert value(cohen(np.array([[0, 7], [0, 0]]))) == 0  # each has one label, and not the same


@pytest.mark.parametrize("label", [0, 1, 2])
def test_votes_that_are_all_the_same_leave_chance_corrected_agreement_undefined(label: int) -> None:
    votes = votes_on([[label] * 3] * 4)
    for found in (
        fleiss(votes),
        krippendorff(votes, "nominal"),
        krippendorff(votes, "ordinal"),
        krippendorff(votes, "interval"),
        cohen(contingency(votes, 0, 1)),
    ):
        assert found == Statistic(None, 4, ONE_LABEL)
    assert observed(votes).value == unanimity(votes).value == 1


@pytest.mark.parametrize("rows", [[], [[0], [1], [2]], [[0, None], [None, 2]]])
def test_without_a_pair_of_votes_every_statistic_says_so(rows: list[list[int | None]]) -> None:
    votes = votes_on(rows)
    for found in (observed(votes), unanimity(votes), fleiss(votes), krippendorff(votes)):
        assert found == Statistic(None, 0, NO_PAIRS)
    assert cohen(np.zeros((3, 3), np.int64)) == Statistic(None, 0, NO_PAIRS)


def test_unanimity_by_hand() -> None:
    votes = votes_on([[0, 0, 0], [0, 0, 1], [2, 2, None], [1, None, None]])
    assert unanimity(votes) == Statistic(2 / 3, 3)


def test_the_three_annotators_of_pandalm_all_agree_on_88_percent(shared: Path) -> None:
    rows = json.loads((shared / "data/feedback/pandalm/testset-v1.json").read_text())
    labels = [[row[f"annotator{i}"] for i in (1, 2, 3)] for row in rows]
    assert value(unanimity(votes_on(labels))) == pytest.approx(0.88, abs=0.005)
