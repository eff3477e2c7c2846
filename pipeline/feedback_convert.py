"""`align feedback convert`: raw feedback as one Parquet file of preference pairs."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from align.data.errors import UserError
from align.pipeline.conversion import converted
from align.pipeline.feedback_sources import Asked, keep_apart, rejected_of, usable_folder
from align.pipeline.progress import note
from align.pipeline.text_table import print_table
from align.reward.convert import Counts, Part
from align.reward.pairs_file import conflicts_of, write_pairs

KIND_COLUMNS = ("kind", "records", "gold", "excluded", "silent", "pairs", "ties", "held out")
WHY = {
    "gold": "gold records test annotators",
    "excluded": "excluded records are by annotators who do not count (feedback.annotators and "
    "feedback.eligibility)",
    "silent": "silent records are in no pair: skipped, unsure, two answers of one text, gaps below "
    "a threshold, or nothing to compare with",
}


@dataclass
class Table:
    """What goes by on its way to the file."""

    pairs: Counter[str] = field(default_factory=Counter)  # by criterion
    ties: Counter[str] = field(default_factory=Counter)
    held_out: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0

    def seen(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts as they are."""
        for part in parts:
            pairs = part.pairs
            self.pairs.update(_criteria(pairs))
            self.ties.update(_criteria(pairs.filter(pc.equal(pairs["target_prob"], 0.5))))
            is_held_out = pc.equal(pairs["split"].cast(pa.string()), "test")
            self.held_out.update(_criteria(pairs.filter(is_held_out)))
            self.conflicts += len(part.conflicts)
            yield part


def convert(asked: Asked, out: Path) -> None:
    """Write `out`, with its conflicts and bad rows beside it, and print what became of the records
    of each kind."""
    if out.suffix != ".parquet" or out.is_dir():
        raise UserError(f"--out {out}: name a Parquet file, such as pairs.parquet")
    folder = usable_folder(out.parent)
    rejected = rejected_of(out)
    keep_apart(asked, out, conflicts_of(out), rejected)
    table = Table()
    parts = converted(asked.sources, asked.config.feedback, asked.config.data, folder, rejected)
    counts = write_pairs(out, table.seen(parts))
    print_table(KIND_COLUMNS, [_row(kind, count) for kind, count in sorted(counts.items())])
    total = sum(counts.values(), start=Counts())
    for name, why in WHY.items():
        if vars(total)[name]:
            note(why)
    print_table(
        ("criterion", "pairs", "ties", "held out"),
        [
            (name, f"{n:,}", f"{table.ties[name]:,}", f"{table.held_out[name]:,}")
            for name, n in table.pairs.most_common()
        ],
    )
    if table.conflicts:
        note(f"{table.conflicts:,} times two criteria disagree: {conflicts_of(out)}")
    note(f"{total.pairs:,} pairs of {total.records:,} records: {out}")


def _criteria(pairs: pa.Table) -> list[str]:
    names: list[str] = pairs["criterion"].cast(pa.string()).to_pylist()
    return names


def _row(kind: str, count: Counts) -> tuple[str, ...]:
    numbers = (
        *(count.records, count.gold, count.excluded, count.silent),
        *(count.pairs, count.ties, count.test),
    )
    return (kind, *(f"{value:,}" for value in numbers))
