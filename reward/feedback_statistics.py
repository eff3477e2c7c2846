"""What feedback looks like before anybody learns from it: who judged how much, and how.

Pure functions of validated raw records. Shares come with Wilson's 95 % interval, or with the reason
why there is no case. The pairs of one ranking are not independent: their intervals are too narrow.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from align.data.questionnaires import QUESTIONNAIRES
from align.data.schemas import Record
from align.reward.judged_pairs import judged_pairs, votes_by_item
from align.reward.reliability import wilson

MOST_ANNOTATORS = 20  # in an agreement matrix: the square of it is drawn
NO_COMPARISONS = "there are no comparisons"
NO_COUPLES = "no two annotators judged the same two answers"
EQUALLY_LONG = "where one answer was found better, both are equally long"


@dataclass(frozen=True)
class Rate:
    """A share of n cases, with its 95 % interval."""

    n: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Missing:
    """Why there is no case to take a share of."""

    reason: str


Measured = Rate | Missing


@dataclass(frozen=True)
class Durations:
    """Seconds per judgement, where they were measured: the median, and what 80 % lie between."""

    n: int
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How often two annotators judged the same two answers (`n`), and alike (`agreed`).

    The matrices are of the busiest `annotators`; `everybody` is over any two of all of them.
    """

    annotators: list[str]
    n: list[list[int]]
    agreed: list[list[int]]
    annotators_in_all: int
    everybody: Measured


@dataclass(frozen=True)
class FeedbackStatistics:
    """Everything below about one set of records; `dataclasses.asdict` gives its JSON."""

    records: int
    prompts: int
    by_kind: dict[str, int]
    by_criterion: dict[str, int]
    by_annotator: dict[str, int]
    by_annotator_kind: dict[str, int]
    by_source: dict[str, int]
    ties: Measured
    skips: Measured
    conflicts: Measured
    longer_won: Measured
    first_won: Measured
    gold: Measured
    failures: dict[str, Rate]
    duration_s: Durations | None
    agreement: Agreement


def statistics_of(records: Sequence[Record]) -> FeedbackStatistics:
    """All statistics of validated raw records of any kinds."""
    return FeedbackStatistics(
        records=len(records),
        prompts=len({record["prompt_id"] for record in records}),
        by_kind=counts_by(records, "kind"),
        by_criterion=counts_by(records, "criterion"),
        by_annotator=counts_by(records, "annotator_id"),
        by_annotator_kind=counts_by(records, "annotator_kind"),
        by_source=counts_by(records, "source"),
        ties=tie_rate(records),
        skips=skip_rate(records),
        conflicts=conflict_rate(records),
        longer_won=length_bias(records),
        first_won=position_bias(records),
        gold=gold_share(records),
        failures=failure_rates(records),
        duration_s=durations(records),
        agreement=agreement_of(records),
    )


def counts_by(records: Iterable[Record], field: str) -> dict[str, int]:
    """Records by the value of a field, the commonest first; equally common ones by name."""
    counts = Counter(record[field] for record in records)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def tie_rate(records: Iterable[Record]) -> Measured:
    """The share of judged pairs whose answers were found equally good."""
    equal = [better == 0 for record in records for _, _, better in judged_pairs(record)]
    return _rate(equal, "no two answers were compared")


def skip_rate(records: Iterable[Record]) -> Measured:
    """The share of comparisons that somebody would not decide."""
    skipped = [r["outcome"] == "skip" for r in records if r["kind"] == "comparison"]
    return _rate(skipped, NO_COMPARISONS)


def gold_share(records: Iterable[Record]) -> Measured:
    """The share of records that test annotators."""
    return _rate([record["gold"] for record in records], "no records")


def conflict_rate(records: Iterable[Record]) -> Measured:
    """Of two annotators who judged the same two answers by the same criterion: who disagreed.

    A tie against a win is a disagreement too. Every such couple of judgements counts once.
    """
    couples, agreeing = _couples(votes_by_item(records).values())
    return _share(couples - agreeing, couples, NO_COUPLES)


def length_bias(records: Iterable[Record]) -> Measured:
    """How often the longer answer won, of the decided pairs of different length in characters."""
    won: list[bool] = []
    decided = 0
    for record in records:
        lengths = [sum(len(turn["content"]) for turn in turns) for turns in record["completions"]]
        for first, second, better in judged_pairs(record):
            gap = lengths[first] - lengths[second]
            decided += better != 0
            if gap and better:
                won.append((gap > 0) == (better > 0))
    return _rate(won, EQUALLY_LONG if decided else "no answer was found better than another")


def position_bias(records: Iterable[Record]) -> Measured:
    """How often the answer shown first won, of the decided comparisons whose order is recorded."""
    compared = [record for record in records if record["kind"] == "comparison"]
    decided = [record for record in compared if record["outcome"] in ("a", "b")]
    first_won = [
        record["outcome"] == "ab"[record["display_order"][0]]
        for record in decided
        if record["display_order"] is not None
    ]
    undecided = "no comparison was decided" if compared else NO_COMPARISONS
    return _rate(first_won, "who was shown first is not recorded" if decided else undecided)


def failure_rates(records: Iterable[Record]) -> dict[str, Rate]:
    """How often answers failed in each way that a ready questionnaire asked about; the others are
    not there."""
    failed: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        if record["kind"] == "question":
            questions = QUESTIONNAIRES.get(record["questionnaire_version"], ())
            failures = {question.id: question.failure for question in questions}
            for answer in record["answers"]:
                failure = failures.get(answer["question_id"])
                if failure is not None and answer["value"] is not None:
                    failed[failure.value].append(answer["value"] < 0.5)
    shares = {name: wilson(sum(hits), len(hits)) for name, hits in sorted(failed.items())}
    return {name: Rate(x.n, x.accuracy, x.low, x.high) for name, x in shares.items()}


def durations(records: Iterable[Record]) -> Durations | None:
    """Seconds per judgement: the 10th, 50th and 90th percentile of those that were measured."""
    seconds = [record["duration_s"] for record in records if record["duration_s"] is not None]
    if not seconds:
        return None
    low, median, high = (float(value) for value in np.quantile(seconds, (0.1, 0.5, 0.9)))
    return Durations(len(seconds), low, median, high)


def agreement_of(records: Iterable[Record], most: int = MOST_ANNOTATORS) -> Agreement:
    """Agreement of every two annotators, of the `most` who judged the most pairs of answers."""
    items = votes_by_item(records).values()
    busiest = Counter(name for votes in items for name in votes)
    names = sorted(sorted(busiest), key=lambda name: -busiest[name])[:most]
    n: dict[tuple[str, str], int] = defaultdict(int)
    agreed: dict[tuple[str, str], int] = defaultdict(int)
    for votes in items:
        for ours, theirs in combinations([name for name in names if name in votes], 2):
            n[ours, theirs] += 1
            agreed[ours, theirs] += votes[ours] == votes[theirs]
    couples, agreeing = _couples(items)
    everybody = _share(agreeing, couples, NO_COUPLES)
    return Agreement(
        names, _symmetric(names, n), _symmetric(names, agreed), len(busiest), everybody
    )


def _couples(items: Iterable[Mapping[str, int]]) -> tuple[int, int]:
    """How many couples of votes on one item there are, and how many of them say the same."""
    couples = agreeing = 0
    for votes in items:
        couples += comb(len(votes), 2)
        agreeing += sum(comb(count, 2) for count in Counter(votes.values()).values())
    return couples, agreeing


def _symmetric(names: Sequence[str], counts: dict[tuple[str, str], int]) -> list[list[int]]:
    return [[counts.get((a, b), counts.get((b, a), 0)) for b in names] for a in names]


def _rate(hits: Sequence[bool], reason: str) -> Measured:
    return _share(sum(hits), len(hits), reason)


def _share(successes: int, n: int, reason: str) -> Measured:
    if n == 0:
        return Missing(reason)
    share = wilson(successes, n)
    return Rate(n, share.accuracy, share.low, share.high)
