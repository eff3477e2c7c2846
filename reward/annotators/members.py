"""Whose judgements count: an annotator table, as `align feedback agreement` writes it or a person
edits it, as a filter of records.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from align.data.schemas import ANNOTATOR, Record
from align.data.validate import read_validated, validate_annotator
from align.reward.annotators.pools import Membership, by_members
from align.reward.annotators.votes import Flags

POOL = "counted"
EVER = datetime(1, 1, 1, tzinfo=UTC)


def read_annotators(path: Path) -> list[Record]:
    """The rows of an annotator table.

    Raises: DataError if the file is missing, of another kind, empty, or has a bad row.
    """
    return read_validated(path, ANNOTATOR, validate_annotator)


def members_only(path: Path, least_gold: float) -> Callable[[pa.Table], Flags]:
    """Which records (R) are by somebody in the table, in one of their stays if these have dates.

    A row without dates is for good. Rows whose `wilson_lb` on gold items is below `least_gold`, or
    not known, count for nothing.
    """
    stays = [
        Membership(row["annotator_id"], POOL, row["qualified_from"] or EVER, row["qualified_to"])
        for row in read_annotators(path)
        if (row["wilson_lb"] or 0.0) >= least_gold
    ]
    return lambda table: by_members(
        stays, POOL, table["annotator_id"].combine_chunks(), table["created_at"].combine_chunks()
    )
