"""`align feedback validate`: how many good records of each kind there are, and what is wrong with
the other rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from align.data.config import FeedbackSource
from align.data.errors import DataError, UserError
from align.data.feedback import feedback_batches
from align.data.rejects import Rejects
from align.pipeline.feedback_sources import Asked, consistent_slices
from align.pipeline.progress import note
from align.pipeline.text_table import print_table

SHOWN = 10  # bad rows


def validate(asked: Asked, out: Path | None) -> None:
    """Print counts and the first bad rows; with `out`, all bad rows go to its `rejected.jsonl`.

    Raises: UserError with a line for each file that has no good row or cannot be read, or if the
    share of bad rows is above `data.max_rejected`.
    """
    rejects = Rejects(out / "rejected.jsonl" if out else None, asked.config.data.max_rejected)
    failures: list[str] = []
    counts: Counter[str] = Counter()
    batches = _readable(asked.sources, rejects, failures)
    for part in consistent_slices(batches, rejects, out):
        counts.update({kind: len(table) for kind, table in part.items()})
    if counts:
        print_table(("kind", "records"), [(kind, f"{n:,}") for kind, n in counts.most_common()])
    if rejects.seen:
        none = "no bad rows in what could be read" if failures else "no bad rows"
        _show_bad_rows(rejects, counts.total(), none)
    if failures:
        rejects.keep()
        raise UserError("\n".join(failures))
    rejects.finish()


def _readable(
    sources: Sequence[FeedbackSource], rejects: Rejects, failures: list[str]
) -> Iterator[pa.RecordBatch]:
    """The good records of every source that has one; why there are none in others."""
    for source in sources:
        try:
            for batch in feedback_batches([source], rejects):
                yield batch.drop_columns(["arrival"])  # it counts within a source
        except DataError as error:
            failures.append(str(error))


def _show_bad_rows(rejects: Rejects, good: int, none: str) -> None:
    bad = f"{rejects.rows:,} of {rejects.seen:,} rows are bad" if rejects.rows else none
    note(f"{good:,} good records; {bad}")
    for one in rejects.rejections[:SHOWN]:
        field = f"{one.field}: " if one.field else ""
        note(f"{one.file}:{one.line}: {field}{one.reason}")
    if (left := len(rejects.rejections) - SHOWN) > 0:
        where = f"in {rejects.path}" if rejects.path else "which --out DIR keeps"
        note(f"and {left:,} more, {where}")
