"""Feedback into the preference table: what `align run` and `align feedback convert` share."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from align.data.config import DataConfig, FeedbackSource
from align.data.feedback import feedback_batches
from align.data.rejects import Rejects
from align.pipeline.progress import note, tracked
from align.reward.annotators.members import members_only
from align.reward.config import FeedbackConfig
from align.reward.convert import Part, convert
from align.reward.feedback.strengths import strengths


def converted(
    sources: Sequence[FeedbackSource],
    feedback: FeedbackConfig,
    data: DataConfig,
    folder: Path,
    rejected: Path,
) -> Iterator[Part]:
    """The table in parts; too many bad rows are an error before it can be published.

    Bad rows go to `rejected`; with near-duplicates, `splits.jsonl` is written to `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rejects = Rejects(rejected, data.max_rejected)
    counted = None
    if feedback.annotators is not None:
        counted = members_only(feedback.annotators, feedback.min_gold_agreement)
    parts = convert(
        tracked("records", feedback_batches(sources, rejects), len),
        feedback,
        data.held_out,
        counted=counted,
        fit=strengths,
        assignments=folder / "splits.jsonl",
        rejects=rejects,
        folder=folder,
    )
    for part in tracked("pairs", parts, lambda part: len(part.pairs)):
        if part.leaks:
            note(f"{len(part.leaks)} prompts are near to earlier ones of both splits")
        yield part
    rejects.finish()
    if rejects.rows:
        note(f"{rejects.rows} of {rejects.seen} rows are bad and left out: see {rejects.path}")
