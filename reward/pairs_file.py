"""The preference table as a Parquet file, written part by part and checked when it is read."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from align.data.atomic import written_whole
from align.data.schemas import CONFLICT, PREFERENCE, Preference
from align.data.validate import read_validated, validate_preference
from align.reward.convert import Counts, Part


def conflicts_of(path: Path) -> Path:
    """Where the conflicts of a table go: beside it, under its name."""
    return path.with_name(f"{path.stem}.conflicts.parquet")


def write_pairs(path: Path, parts: Iterable[Part]) -> dict[str, Counts]:
    """Write the table, and its conflicts beside it; returns the counts by kind.

    Neither file appears unless both are whole.
    """
    counts: dict[str, Counts] = {}
    with (
        written_whole(conflicts_of(path)) as conflicts_file,
        written_whole(path) as file,
        pq.ParquetWriter(conflicts_file, CONFLICT) as conflicts,
        pq.ParquetWriter(file, PREFERENCE, compression="zstd", compression_level=1) as pairs,
    ):
        for part in parts:
            pairs.write_table(part.pairs)
            conflicts.write_table(part.conflicts)
            for kind, count in part.counts.items():
                counts[kind] = counts.get(kind, Counts()) + count
    return counts


def read_pairs(path: Path) -> list[Preference]:
    """A preference table that `write_pairs` wrote, checked again.

    Raises: DataError if it is missing, newer than this program, or holds an invalid row.
    """
    return read_validated(path, PREFERENCE, validate_preference)
