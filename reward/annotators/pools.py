"""Pools of super raters: who belongs, from when to when, and when somebody has to leave.

Only judgements by members train the reward model, and what counts is who was a member at the time
of the judgement: what somebody said before qualifying, or after leaving, stays out for good.
Members keep meeting hidden gold items; a sequential test of their answers ends a membership.
Source: Menick et al. 2022 (GopherCite, arXiv:2203.11147) for pools that grow; Wald 1945,
"Sequential tests of statistical hypotheses", for the test.

Shapes: N records.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate

import numpy as np

from align.reward.annotators.agreement import credit_matrix
from align.reward.annotators.votes import (
    TIE,
    UNKNOWN,
    Flags,
    Ints,
    Times,
    Votes,
    numbered,
    times_of,
)
from align.reward.reliability import wilson

SUPER_RATERS = "super raters"
BAR = 0.85
"""What the lower end of the 95 % interval of agreement with gold must reach. GopherCite asks it of
the agreement itself, which three right answers can reach by luck."""

Answer = tuple[datetime, float]
"""When somebody judged a gold item, and how far they agreed: 1, 0, or 1/2 for a tie and a side."""


@dataclass(frozen=True)
class Membership:
    """One stay of an annotator in a pool, from `qualified_from` until just before `qualified_to`.

    Who comes back has two.
    """

    annotator_id: str
    pool: str
    qualified_from: datetime
    qualified_to: datetime | None = None  # None: still a member


@dataclass(frozen=True)
class DropTest:
    """Wald's sequential probability ratio test of gold answers: is this a bad rater?"""

    good: float = 0.85  # a good rater agrees with gold so often (GopherCite's bar)
    bad: float = 0.70  # a rater to drop agrees so often
    false_drop: float = 0.05  # chance to drop a good rater, per round
    false_keep: float = 0.05  # chance to keep a bad rater, per round

    def __post_init__(self) -> None:
        assert 0 < self.bad < self.good < 1 and self.false_drop + self.false_keep < 1


@dataclass(frozen=True)
class Verdict:
    """What the test has found so far."""

    dropped_at: int | None  # the answer that ended it, counted from 0
    rounds_passed: int  # how often the member has qualified again
    evidence: float  # log P(answers | bad) / P(answers | good) of the last round, in nats


def super_raters(votes: Votes, gold_I: Ints) -> list[Membership]:
    """All stays in the pool of the people among the annotators, by name and then by time."""
    assert votes.time_N is not None
    gold_N = gold_I[votes.item_N]
    agreed_N = credit_matrix(votes.label_count, TIE)[gold_N, votes.label_N]
    found = []
    for annotator, (name, kind) in enumerate(zip(votes.annotators, votes.kinds, strict=True)):
        mine = np.flatnonzero((votes.annotator_N == annotator) & (gold_N != UNKNOWN))
        if kind == "human" and len(mine):
            times = [time.replace(tzinfo=UTC) for time in votes.time_N[mine].tolist()]
            found += stays(name, list(zip(times, agreed_N[mine].tolist(), strict=True)))
    return found


def stays(annotator_id: str, gold: Sequence[Answer], pool: str = SUPER_RATERS) -> list[Membership]:
    """In from the gold answer at which the lower bound reaches `BAR`, out at the one that fails the
    drop test; who is out begins anew, and qualifies by later answers alone."""
    answers = sorted(gold)
    found = []
    while (place := _qualifying(answers)) is not None:
        stay = requalified(Membership(annotator_id, pool, answers[place][0]), answers[place + 1 :])
        found.append(stay)
        left = stay.qualified_to
        answers = [] if left is None else [one for one in answers if one[0] > left]
    return found


def _qualifying(answers: Sequence[Answer]) -> int | None:
    """The first answer after which the lower bound of all so far reaches the bar."""
    agreed = accumulate(share for _, share in answers)
    return next((n for n, sum_ in enumerate(agreed) if wilson(sum_, n + 1).low >= BAR), None)


def drop_test(agreed: Iterable[float], test: DropTest | None = None) -> Verdict:
    """The verdict on gold answers in the order of time: 1 agrees with gold, 0 does not, 1/2 half.

    Evidence above log((1 - false_keep) / false_drop) ends the membership. Below
    log(false_keep / (1 - false_drop)) the member has qualified again and a new round begins, so
    that a long good record does not hide a decline.
    """
    test = test or DropTest()
    right = math.log(test.bad / test.good)
    wrong = math.log((1 - test.bad) / (1 - test.good))
    upper = math.log((1 - test.false_keep) / test.false_drop)
    lower = math.log(test.false_keep / (1 - test.false_drop))
    evidence, passed = 0.0, 0
    for place, share in enumerate(agreed):
        evidence += share * right + (1 - share) * wrong
        if evidence >= upper:
            return Verdict(place, passed, evidence)
        if evidence <= lower:
            evidence, passed = 0.0, passed + 1
    return Verdict(None, passed, evidence)


def requalified(
    membership: Membership, gold: Iterable[Answer], test: DropTest | None = None
) -> Membership:
    """The membership, ended at the gold answer that failed the test, if one did.

    `gold` holds when the member judged a gold item and how far they agreed; answers from outside
    the membership do not count.
    """
    during = [one for one in gold if _covers(membership, one[0])]
    during.sort(key=lambda one: one[0])
    verdict = drop_test((share for _, share in during), test)
    if verdict.dropped_at is None:
        return membership
    return replace(membership, qualified_to=during[verdict.dropped_at][0])


def _covers(membership: Membership, at: datetime) -> bool:
    until = membership.qualified_to
    return membership.qualified_from <= at and (until is None or at < until)


def by_members(
    memberships: Sequence[Membership],
    pool: str,
    annotator_ids: Sequence[str],
    created_at: Sequence[datetime],
) -> Flags:
    """(N,): which records come from somebody who was a member of the pool when judging."""
    time_N = times_of(created_at)
    code_N, names = numbered(annotator_ids)
    codes = {name: code for code, name in enumerate(names)}
    order_N = np.argsort(code_N, kind="stable")
    member_N = np.zeros(len(time_N), bool)
    for membership in memberships:
        if membership.pool == pool and membership.annotator_id in codes:
            code = codes[membership.annotator_id]
            first, last = np.searchsorted(code_N, [code, code + 1], sorter=order_N)
            mine = order_N[first:last]
            member_N[mine] |= _during(membership, time_N[mine])
    return member_N


def _during(membership: Membership, time_N: Times) -> Flags:
    start, end = times_of([membership.qualified_from, membership.qualified_to])
    return np.asarray((time_N >= start) & ~(time_N >= end))
