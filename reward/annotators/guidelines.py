"""Guidelines for annotators change; judgements by an older version are found and asked for again.

Every record names the version its annotator followed. Once a newer one is in force the record is
superseded: flagged, not deleted, and its item goes into the re-label queue until somebody judges it
by the version now in force. Source: Stiennon et al. 2020 (arXiv:2009.01325), appendix C, for
detailed guidelines under live revision.

Shapes: N records.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from align.data.errors import UserError
from align.data.messages import shown
from align.data.schemas import Record
from align.reward.annotators.votes import Flags, Ints, times_of

REJECTED = -1
TASK = ("kind", "criterion", "prompt_id", "prompt", "completion_ids", "completions")

Refused = tuple[int, str, str]
"""Row, field and reason."""


@dataclass(frozen=True)
class Guideline:
    """One version, in force until the next one is."""

    version: str
    in_force_from: datetime


@dataclass(frozen=True)
class Review:
    """How old the guidelines of each record are."""

    behind_N: Ints  # newer versions in force by now; REJECTED for records without a known version
    behind_then_N: Ints  # newer versions in force already when the record was made
    rejected: list[Refused]

    @property
    def superseded_N(self) -> Flags:
        """Records by a version that is no longer in force."""
        return self.behind_N > 0

    @property
    def outdated_N(self) -> Flags:
        """Records whose annotator followed a version that had already been replaced."""
        return self.behind_then_N > 0


def review(
    guidelines: Sequence[Guideline],
    versions: Sequence[str | None],
    created_at: Sequence[datetime],
    now: datetime,
) -> Review:
    """Compare each record's version with those in force now, and when it was made.

    Raises: UserError if a version is listed twice or has no name, or none is in force yet.
    """
    ordered = sorted(guidelines, key=lambda one: one.in_force_from)
    places = {one.version: place for place, one in enumerate(ordered)}
    if "" in places:
        raise UserError("a guideline version has no name: give every revision its own version")
    if len(places) < len(ordered):
        raise UserError("a guideline version is listed twice: give every revision its own version")
    if not ordered or ordered[0].in_force_from > now:
        raise UserError(f"no guideline is in force on {now:%Y-%m-%d}: list the first version")
    place_N = np.array([places.get(one or "", REJECTED) for one in versions], np.int64)
    starts = times_of([one.in_force_from for one in ordered])
    current = int(np.searchsorted(starts, times_of([now]), side="right")[0]) - 1
    then_N = np.searchsorted(starts, times_of(created_at), side="right") - 1
    known_N = place_N != REJECTED
    return Review(
        np.where(known_N, np.maximum(current - place_N, 0), REJECTED),
        np.where(known_N, np.maximum(then_N - place_N, 0), REJECTED),
        [_problem(row, versions[row]) for row in np.flatnonzero(~known_N).tolist()],
    )


def _problem(row: int, version: str | None) -> Refused:
    if not version:
        return row, "guideline_version", "must not be empty"
    return row, "guideline_version", f"no guideline has the version {shown(version)}"


def relabel_queue(item_ids: Sequence[str], review: Review) -> list[str]:
    """Items that nobody judged by the version in force, the oldest judgement first.

    How old an item is goes by its newest record; items of one age are in the order of their ids.
    Rejected records neither put an item into the queue nor take it out.
    """
    behind: dict[str, int] = {}
    for item, versions in zip(item_ids, review.behind_N.tolist(), strict=True):
        if versions != REJECTED:
            behind[item] = min(versions, behind.get(item, versions))
    waiting = [item for item, versions in behind.items() if versions > 0]
    return sorted(waiting, key=lambda item: (-behind[item], item))


def item_of(record: Record) -> str:
    """Names what a record judges: the prompt, the answers and the criterion, whoever judged it."""
    answers = sorted(record["completion_ids"])
    return json.dumps([record["prompt_id"], record["criterion"], record["kind"], answers])


def tasks(records: Sequence[Record], review: Review) -> list[Record]:
    """The re-label queue as tasks for annotators, with the records that they are to replace."""
    by_item: dict[str, list[Record]] = {}
    for record in records:
        by_item.setdefault(item_of(record), []).append(record)
    queue = relabel_queue([item_of(record) for record in records], review)
    return [
        {name: by_item[item][0][name] for name in TASK}
        | {"superseded": [one["feedback_id"] for one in by_item[item]]}
        for item in queue
    ]
