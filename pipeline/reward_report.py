"""How well a reward model does on held-out pairs: by feedback kind, with intervals."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from align.data.atomic import write_jsonl
from align.data.messages import Message
from align.pipeline.config import RunConfig
from align.pipeline.groups import Group, Pair
from align.pipeline.run_directory import RunDirectory, update_summary, write_json
from align.pipeline.texts import Texts, per_text
from align.policy.logprobs import text_scores
from align.reward.annotators.noise import disagreements
from align.reward.reliability import Outcome, calibration, risk_coverage, summarise, wilson
from align.reward.taste import taste

LOOK_AGAIN = (
    "pair_id",
    "prompt",
    "chosen",
    "rejected",
    "criterion",
    "feedback_ids",
    "annotator_ids",
)
"""Columns of a pair that a person needs to judge its label."""


def outcomes_of(
    model: Callable[[Tensor], Tensor], groups: list[Group], budget: int, device: torch.device
) -> list[Outcome]:
    """The word of a model of token scores on every pair of the groups, in their order.

    On all ranks.
    """
    texts = Texts(
        [ids for group in groups for ids in group.texts.prompts],
        [ids for group in groups for ids in group.texts.responses],
    )
    scores = per_text(lambda batch: text_scores(model, batch), texts, budget, device).tolist()
    outcomes = []
    start = 0
    for group in groups:
        for pair in group.pairs:
            gap = scores[start + pair.chosen] - scores[start + pair.rejected]
            outcomes.append(Outcome(gap, pair.target_prob, pair.weight))
        start += len(group.texts)
    return outcomes


def write_evaluation(
    directory: RunDirectory, outcomes: list[Outcome], groups: list[Group], config: RunConfig
) -> dict[str, Any]:
    """`rm/evaluation.json`, `rm/disagreements.jsonl` and the run's `rm_accuracy`.

    Simulated annotators err on purpose, so where they gave the feedback the reward model answers
    to the taste that they tried to follow.
    """
    pairs = [pair for group in groups for pair in group.pairs]
    hits: dict[str, list[bool]] = defaultdict(list)
    for outcome, pair in zip(outcomes, pairs, strict=True):
        if pair.target_prob != 0.5:
            hits[pair.row["feedback_kind"]].append(outcome.gap > 0)
    report: dict[str, Any] = summarise(outcomes) | {
        "by_kind": {
            kind: asdict(wilson(sum(hits[kind]), len(hits[kind]))) for kind in sorted(hits)
        },
        "calibration": [asdict(part) for part in calibration(outcomes)],
        "risk_coverage": [asdict(point) for point in risk_coverage(outcomes)],
    }
    accuracy = report["accuracy"]
    if any(source.format == "simulated" for source in config.data.feedback):
        report["against_taste"] = _against_taste(outcomes, groups)
        accuracy = report["against_taste"]["accuracy"]
    write_json(directory.stage("rm") / "evaluation.json", report)
    write_jsonl(directory.stage("rm") / "disagreements.jsonl", _doubtful(outcomes, pairs))
    update_summary(directory, rm_accuracy=accuracy)
    return report


def _doubtful(outcomes: list[Outcome], pairs: list[Pair]) -> Iterator[dict[str, Any]]:
    """Held-out pairs whose label the model thinks wrong, the worst first: a person may look again.

    A tie has no direction that could be wrong.
    """
    predicted = [0.5 if outcome.target_prob == 0.5 else outcome.probability for outcome in outcomes]
    for place in disagreements(np.array(predicted)).tolist():
        row = pairs[place].row
        yield {"predicted": predicted[place]} | {name: row[name] for name in LOOK_AGAIN}


def _against_taste(outcomes: list[Outcome], groups: list[Group]) -> dict[str, float]:
    """One verdict for two answers, however many kinds of feedback compared them."""
    rows = [pair.row for group in groups for pair in group.pairs]
    hits = {}
    for outcome, row in zip(outcomes, rows, strict=True):
        gap = taste(_text(row["chosen"])) - taste(_text(row["rejected"]))
        if gap:
            answers = frozenset((row["chosen_id"], row["rejected_id"]))
            hits[row["prompt_id"], answers] = (outcome.gap > 0) == (gap > 0)
    return asdict(wilson(sum(hits.values()), len(hits)))


def _text(messages: list[Message]) -> str:
    return messages[-1]["content"]
