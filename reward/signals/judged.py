"""Rewards by a judge model: the expected reward of a rubric's options."""

from collections.abc import Sequence
from datetime import UTC, datetime

from align.data.messages import assistant
from align.reward.judge import rbrm
from align.reward.judge.asking import Judge
from align.reward.judge.records import Origin
from align.reward.judge.rubric import PromptClass, Rubric
from align.reward.signals.exchange import Exchange


def judge_scores(
    judge: Judge, rubric: Rubric, exchanges: Sequence[Exchange], prompt_class: PromptClass
) -> tuple[list[float], dict[int, str]]:
    """A score for every exchange, and why some have none: those score 0, a rubric's `no opinion`.

    Raises: UserError if the judge gives out, or answers none of the questions.
    """
    found = rbrm.judge_answers(
        judge,
        rubric,
        [rbrm.Exchange(one.prompt, assistant(one.answer), prompt_class) for one in exchanges],
        Origin("reward.mix", "unknown", datetime.now(UTC)),
        rbrm.Manner(),
    )
    scores = [0.0] * len(exchanges)
    judged = (place for place in range(len(exchanges)) if place not in found.problems)
    for place, record in zip(judged, found.records, strict=True):
        scores[place] = record["reward"]
    return scores, found.problems
