"""How well a reward model does on held-out pairs: by feedback kind and more, with intervals."""

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
from align.pipeline.rm_update import outcomes_in
from align.pipeline.run_directory import RunDirectory, update_summary, write_json
from align.pipeline.texts import Texts, per_text
from align.policy.logprobs import text_scores
from align.reward.annotators.noise import disagreements
from align.reward.reliability import (
    Outcome,
    calibration,
    length_bias,
    risk_coverage,
    slices,
    summarise,
    wilson,
)
from align.reward.taste import taste

LIKE_LENGTH = 0.2
"""Answers whose lengths differ by less than this share of the longer one are of like length."""

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
    model: Callable[[Tensor], Tensor],
    groups: list[Group],
    budget: int,
    device: torch.device,
    scale: float = 1.0,
) -> list[Outcome]:
    """The word of a model of token scores on every pair of the groups, in their order.

    `scale` turns rewards back into nats, if the model's units are others. On all ranks.
    """
    texts = Texts(
        [ids for group in groups for ids in group.texts.prompts],
        [ids for group in groups for ids in group.texts.responses],
    )
    scores_B = per_text(lambda batch: text_scores(model, batch), texts, budget, device)
    return outcomes_in(groups, (scale * scores_B).tolist())


def write_evaluation(
    directory: RunDirectory,
    outcomes: list[Outcome],
    groups: list[Group],
    config: RunConfig,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """`rm/evaluation.json` (`more` in it), `rm/disagreements.jsonl`, the run's `rm_accuracy`.

    Simulated annotators err on purpose, so where they gave the feedback the reward model answers
    to the taste that they tried to follow.
    """
    report = summarise(outcomes) | _slices(outcomes, groups) | (more or {})
    pairs = [pair for group in groups for pair in group.pairs]
    longer_by = [_longer_by(group, pair) for group in groups for pair in group.pairs]
    bias = length_bias(outcomes, longer_by)
    report |= {
        "calibration": [asdict(part) for part in calibration(outcomes)],
        "risk_coverage": [asdict(point) for point in risk_coverage(outcomes)],
        "length_bias": asdict(bias) if bias else None,
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


def _slices(outcomes: list[Outcome], groups: list[Group]) -> dict[str, Any]:
    """`by_kind`, `by_criterion` and so on: name -> its numbers."""
    found = {}
    for name, labels in SLICES.items():
        label = [labels(group, pair) for group in groups for pair in group.pairs]
        found[name] = {key: asdict(one) for key, one in slices(outcomes, label).items()}
    return found


def _agreement(_: Group, pair: Pair) -> list[str]:
    agreement = pair.row["agreement"]
    if agreement is None:
        return ["one vote"]
    if agreement == 1:
        return ["all agree"]
    return ["two thirds agree" if agreement >= 2 / 3 else "fewer agree"]


def _length(group: Group, pair: Pair) -> list[str]:
    lengths = [len(group.texts.responses[place]) for place in (pair.chosen, pair.rejected)]
    if abs(lengths[0] - lengths[1]) < LIKE_LENGTH * max(lengths):
        return ["alike"]
    return ["chosen longer" if lengths[0] > lengths[1] else "chosen shorter"]


SLICES: dict[str, Callable[[Group, Pair], list[str]]] = {
    "by_kind": lambda _, pair: [pair.row["feedback_kind"]],
    "by_criterion": lambda _, pair: [pair.row["criterion"]],
    "by_annotator": lambda _, pair: pair.row["annotator_ids"],
    "by_agreement": _agreement,
    "by_length": _length,
}


def _longer_by(group: Group, pair: Pair) -> int:
    """Tokens by which the chosen answer is longer."""
    return len(group.texts.responses[pair.chosen]) - len(group.texts.responses[pair.rejected])


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
