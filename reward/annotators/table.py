"""The annotator table: one row per annotator, or per stay in a pool, in the schema `ANNOTATOR`.

People and models stand in the same table with the same columns; `kind` tells them apart.
"""

from collections import defaultdict
from collections.abc import Sequence

from align.data.schemas import Record
from align.reward.annotators.dawid_skene import DawidSkene
from align.reward.annotators.pools import Membership
from align.reward.annotators.screening import Screening


def annotator_rows(
    screenings: Sequence[Screening],
    memberships: Sequence[Membership] = (),
    fitted: DawidSkene | None = None,
) -> list[Record]:
    """Rows in the order of the screenings, which must be that of the fitted annotators.

    Who was never in a pool has one row without dates.
    """
    stays: dict[str, list[Membership | None]] = defaultdict(list)
    for membership in sorted(memberships, key=lambda one: one.qualified_from):
        stays[membership.annotator_id].append(membership)
    return [
        _row(one, stay) | {"ds_confusion": fitted and fitted.confusion_ALL[place].tolist()}
        for place, one in enumerate(screenings)
        for stay in stays.get(one.annotator_id, [None])
    ]


def _row(screening: Screening, stay: Membership | None) -> Record:
    gold = screening.agreement
    return {
        "annotator_id": screening.annotator_id,
        "kind": screening.kind,
        "qualified_from": stay and stay.qualified_from,
        "qualified_to": stay and stay.qualified_to,
        "pool": stay and stay.pool,
        "gold_n": gold.n if gold else 0,
        "gold_agree": gold and gold.accuracy,
        "wilson_lb": gold and gold.low,
        "kappa": screening.kappa.value,
    }
