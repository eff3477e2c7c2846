"""What `align feedback agreement` says of guidelines: what to tell annotators, and ask again."""

from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path

from align.data.atomic import write_jsonl
from align.data.schemas import Record
from align.pipeline.progress import note, section
from align.pipeline.text_table import print_table
from align.reward.annotators.feedback_log import feedback_log
from align.reward.annotators.guidelines import Guideline, Review, review, tasks
from align.reward.config import GuidelineConfig


def print_guidelines(
    records: Sequence[Record], versions: Sequence[GuidelineConfig], out: Path | None
) -> None:
    """How many records follow an older version; with `out`, `relabel.jsonl` has what to ask again.

    Raises: UserError if no version is in force yet, or two have one name.
    """
    guidelines = [
        Guideline(one.version, datetime.combine(one.in_force_from, time.min, UTC))
        for one in versions
    ]
    found = review(
        guidelines,
        [one["guideline_version"] for one in records],
        [one["created_at"] for one in records],
        datetime.now(UTC),
    )
    section("Guidelines")
    _print_versions(records, guidelines, found)
    queue = tasks(records, found)
    where = ", which --out DIR keeps as relabel.jsonl"
    if out is not None:
        write_jsonl(out / "relabel.jsonl", queue)
        where = f": {out / 'relabel.jsonl'}"
    note(f"{len(queue):,} items that nobody judged by the version in force{where}")


def _print_versions(
    records: Sequence[Record], guidelines: Sequence[Guideline], found: Review
) -> None:
    rows = []
    for one in sorted(guidelines, key=lambda one: one.in_force_from):
        mine = [place for place, r in enumerate(records) if r["guideline_version"] == one.version]
        counts = len(mine), found.superseded_N[mine].sum(), found.outdated_N[mine].sum()
        rows.append((one.version, f"{one.in_force_from:%Y-%m-%d}", *(f"{n:,}" for n in counts)))
    print_table(("version", "in force from", "records", "superseded", "already replaced"), rows)
    if found.rejected:
        row, _, reason = found.rejected[0]
        first = f"the first is {records[row]['feedback_id']}: {reason}"
        note(f"{len(found.rejected):,} records follow no version of feedback.guidelines; {first}")


def print_feedback_log(records: Sequence[Record], gold_by: Sequence[str], out: Path | None) -> None:
    """How often annotators judged gold items otherwise; `out` gets a `feedback-log.jsonl`."""
    log = feedback_log(records, gold_by)
    where = ", which --out DIR keeps as feedback-log.jsonl"
    if out is not None:
        write_jsonl(out / "feedback-log.jsonl", log)
        where = f": {out / 'feedback-log.jsonl'}"
    note(f"{len(log):,} judgements of gold items to go through with annotators{where}")
