"""How far each annotator can be trusted, and how far the pool agrees, from raw records.

An item is two answers to one prompt by one criterion, and a label which of them is better, or a
tie. Models and programs stand in the same table as people; they are never counted among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from align.data.record_batches import record_batch
from align.data.schemas import Record
from align.reward.annotators import dawid_skene
from align.reward.annotators.agreement import (
    NO_PAIRS,
    Statistic,
    cohen,
    contingency,
    fleiss,
    krippendorff,
    mirrored,
    observed,
    unanimity,
)
from align.reward.annotators.pools import super_raters
from align.reward.annotators.screening import Screening, ranked, screen
from align.reward.annotators.table import annotator_rows
from align.reward.annotators.votes import UNKNOWN, Ints, Votes
from align.reward.config import FeedbackConfig
from align.reward.feedback.kinds import Options
from align.reward.feedback.votes import votes_on_pairs
from align.reward.reliability import Share

NOT_TWO = "it compares exactly two annotators"
NO_MAJORITY = "no item has a majority of two votes or more"
IS_GOLD = "says what is right on gold items"


@dataclass(frozen=True)
class AnnotatorLine:
    """One annotator."""

    annotator_id: str
    kind: str
    judgements: int
    """Items judged; of several judgements of one item the newest counts."""
    with_others: Statistic
    """Agreement with the people who judged the same, the mean over all such couples of votes."""
    accuracy: float | None
    """How often they say what is true, by Dawid-Skene; None where neither others nor gold judged
    the same."""
    gold: Share | None
    kappa: Statistic
    """Cohen's, against gold."""

    @property
    def marked(self) -> str:
        """The name, with what they are unless they are a person."""
        return self.annotator_id + ("" if self.kind == "human" else f" ({self.kind})")


@dataclass(frozen=True)
class Majority:
    """Dawid-Skene against the majority of votes, over the items that two or more judged and that
    have a majority: one vote alone outvotes nobody."""

    items: int
    same: int


@dataclass(frozen=True)
class PoolFigures:
    """How far people agree; where there are none, how far all annotators do."""

    annotators: int
    items: int
    votes: int
    observed: Statistic
    unanimity: Statistic
    cohen: Statistic
    cohen_weighted: Statistic
    """A tie is half as far from better or worse as these are from each other."""
    fleiss: Statistic
    krippendorff_nominal: Statistic
    krippendorff_ordinal: Statistic
    majority: Majority


@dataclass(frozen=True)
class AnnotatorReport:
    """`rows` and `members` are annotator tables, in the schema ANNOTATOR: one row of everybody, and
    one of every stay in the pool of super raters."""

    pool: PoolFigures
    annotators: list[AnnotatorLine]
    on_gold: list[Screening]
    """Who met gold items, the surest first."""
    gold_items: int
    rows: list[Record]
    members: list[Record]


def report_on(
    records: Sequence[Record], config: FeedbackConfig, gold_by: Sequence[str] = ()
) -> AnnotatorReport:
    """Everything above about validated raw records; `gold_by` name who is right on gold items."""
    options = Options(config)
    votes = _votes(records, options)
    gold = [one for one in records if one["gold"] and one["annotator_id"] in gold_by]
    gold_I = _majority_labels(votes, _votes(gold, options))
    fitted = dawid_skene.fit(votes, gold_I)
    screenings = [
        _without_own_gold(one) if one.annotator_id in gold_by else one
        for one in screen(votes, gold_I)
    ]
    stays = [one for one in super_raters(votes, gold_I) if one.annotator_id not in gold_by]
    return AnnotatorReport(
        pool=_pool(_people(votes), fitted),
        annotators=_lines(votes, fitted, screenings),
        on_gold=ranked([one for one in screenings if one.agreement]),
        gold_items=int((gold_I != UNKNOWN).sum()),
        rows=annotator_rows(screenings, fitted=fitted),
        members=[row for row in annotator_rows(screenings, stays, fitted) if row["pool"]],
    )


def _votes(records: Sequence[Record], options: Options) -> Votes:
    by_kind: dict[str, list[Record]] = {}
    for one in records:
        by_kind.setdefault(one["kind"], []).append(one)
    tables = {kind: pa.Table.from_batches([record_batch(x)]) for kind, x in by_kind.items()}
    return votes_on_pairs([tables], options)


def _majority_labels(votes: Votes, gold: Votes) -> Ints:
    """(I,): what most of those who know say of each gold item."""
    return votes.known(dict(zip(gold.items, gold.majority().tolist(), strict=True)))


def _without_own_gold(screening: Screening) -> Screening:
    return replace(screening, agreement=None, kappa=Statistic(None, 0, IS_GOLD))


def _people(votes: Votes) -> Votes:
    """The votes of people, or all where there are none of them."""
    return votes.of_kind("human") if "human" in votes.kinds else votes


def _pool(votes: Votes, fitted: dawid_skene.DawidSkene) -> PoolFigures:
    voters = np.unique(votes.annotator_N)
    two = len(voters) == 2
    both = mirrored(votes)
    table = contingency(both, int(voters[0]), int(voters[1])) if two else None
    majority_I = votes.majority()
    known_I = (majority_I != UNKNOWN) & (votes.counts().sum(axis=1) > 1)
    same_I = known_I & (fitted.posterior_IL.argmax(axis=1) == majority_I)
    return PoolFigures(
        annotators=len(voters),
        items=len(np.unique(votes.item_N)),
        votes=len(votes.item_N),
        observed=observed(votes),
        unanimity=unanimity(votes),
        cohen=Statistic(None, 0, NOT_TWO) if table is None else _once(cohen(table)),
        cohen_weighted=(
            Statistic(None, 0, NOT_TWO) if table is None else _once(cohen(table, "linear"))
        ),
        fleiss=_once(fleiss(both)),
        krippendorff_nominal=_once(krippendorff(both)),
        krippendorff_ordinal=_once(krippendorff(both, "ordinal")),
        majority=Majority(int(known_I.sum()), int(same_I.sum())),
    )


def _once(statistic: Statistic) -> Statistic:
    """A statistic of mirrored votes, which hold each item twice."""
    return replace(statistic, n=statistic.n // 2)


def _lines(
    votes: Votes, fitted: dawid_skene.DawidSkene, screenings: Sequence[Screening]
) -> list[AnnotatorLine]:
    """The least accurate last."""
    with_others = _with_others(votes)
    compared_A = votes.compared()
    judged_A = np.bincount(votes.annotator_N, minlength=len(votes.annotators))
    lines = [
        AnnotatorLine(
            one.annotator_id,
            one.kind,
            int(judged_A[place]),
            with_others[place],
            float(fitted.accuracy_A[place]) if compared_A[place] or one.agreement else None,
            one.agreement,
            one.kappa,
        )
        for place, one in enumerate(screenings)
    ]
    return sorted(lines, key=lambda line: (-(line.accuracy or 0), line.annotator_id))


def _with_others(votes: Votes) -> list[Statistic]:
    """Of each annotator: how many of the other people's votes on the same items are like theirs.

    Every vote meets the counts of its item: a table of all couples would grow with A^2.
    """
    people = _people(votes)
    counts_IL = people.counts()
    is_peer_A = np.zeros(len(votes.annotators), bool)
    is_peer_A[people.annotator_N] = True
    own_N = is_peer_A[votes.annotator_N]
    agreed_N = counts_IL[votes.item_N, votes.label_N] - own_N
    met_N = counts_IL.sum(axis=1)[votes.item_N] - own_N
    agreed_A, met_A = (
        np.bincount(votes.annotator_N, values_N, minlength=len(votes.annotators))
        for values_N in (agreed_N, met_N)
    )
    return [
        Statistic(float(agreed / met), int(met)) if met else Statistic(None, 0, NO_PAIRS)
        for agreed, met in zip(agreed_A, met_A, strict=True)
    ]
