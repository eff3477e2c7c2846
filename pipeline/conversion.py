"""Feedback into the preference table: what `align run` and `align feedback convert` share."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from align.data.config import DataConfig, FeedbackSource
from align.data.feedback import feedback_batches
from align.data.rejects import Rejects
from align.pipeline.progress import note, tracked
from align.reward.annotators.eligibility import eligible_only
from align.reward.annotators.members import members_only
from align.reward.config import FeedbackConfig
from align.reward.convert import Counted, Part, convert
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
    parts = convert(
        tracked("records", feedback_batches(sources, rejects), len),
        feedback,
        data.held_out,
        counted=_counted(feedback),
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


def _counted(feedback: FeedbackConfig) -> Counted | None:
    """Whose judgements count; None: everybody's."""
    asked = feedback.eligibility
    conditions: list[Counted] = []
    if feedback.annotators is not None:
        conditions.append(members_only(feedback.annotators, feedback.min_gold_agreement))
    if asked.profiles is not None:
        conditions.append(eligible_only(asked.profiles, asked))
    if not conditions:
        return None
    return lambda table: np.logical_and.reduce([counts(table) for counts in conditions])
