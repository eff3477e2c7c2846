"""The reward model's update: the loss of a batch of groups, and how each pair came out.

Each answer goes through the model once, however many pairs it is in, and a group weighs the same
however many they are.

Shapes: B answers, P pairs, S choices.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from align.data.batches import micro_batches
from align.data.errors import UserError
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.groups import Group
from align.pipeline.texts import Texts, empty_batch
from align.policy.logprobs import text_scores
from align.reward.loss import centering_loss, choice_loss, preference_loss
from align.reward.reliability import Outcome, summarise


def train_on(groups: list[Group], engine: Engine, config: RunConfig) -> dict[str, float]:
    """Accumulate the gradient of one batch of groups; its metrics over all ranks.

    Raises: UserError where a score is not finite, naming the pairs.
    """
    packing = packs(engine, config)
    items = [group.item(packing) for group in groups]
    plan = micro_batches(items, config.train.micro_batch_tokens, ranks.world_size())
    loss_sum = torch.zeros((), dtype=torch.float64)
    outcomes: list[Outcome] = []
    broken: list[str] = []
    for batch in plan[ranks.rank()]:
        if not batch:
            engine.backward(0 * text_scores(engine, empty_batch(engine.device)).sum())
            continue
        mine = [groups[index] for index in batch]
        scores_B, auxiliary_B = group_scores(mine, engine, config)
        loss = groups_loss(mine, scores_B, config)
        if auxiliary_B is not None:
            share = config.rm.auxiliary
            loss = (1 - share) * loss + share * auxiliary_loss(mine, auxiliary_B)
        engine.backward(loss / len(groups))
        loss_sum += loss.detach().cpu()
        outcomes += outcomes_in(mine, scores_B.tolist())
        broken += _without_score(mine, outcomes[-sum(len(group.pairs) for group in mine) :])
    everywhere = ranks.gather((outcomes, broken))
    _check_finite([pair_id for _, part in everywhere for pair_id in part])
    return {
        "loss": float(ranks.sum_over_ranks(loss_sum)) / len(groups),
        **summarise([outcome for part, _ in everywhere for outcome in part]),
    }


def packs(engine: Engine, config: RunConfig) -> bool:
    """Whether answers lie in one row, each with the attention of itself alone."""
    return config.rm.packing and bool(engine.deepspeed.reads_packed)


def group_scores(
    groups: list[Group], engine: Engine, config: RunConfig
) -> tuple[Tensor, Tensor | None]:
    """The score of every answer of the groups, and the logit of an auxiliary head, both (B)."""
    outputs = _outputs(groups, engine, config)
    return (outputs, None) if outputs.dim() == 1 else (outputs[:, 0], outputs[:, 1])


def _outputs(groups: list[Group], engine: Engine, config: RunConfig) -> Tensor:
    texts = Texts(
        [ids for group in groups for ids in group.texts.prompts],
        [ids for group in groups for ids in group.texts.responses],
    )
    packed = packs(engine, config)
    return text_scores(engine, texts.pick(range(len(texts)), engine.device, packed=packed))


def groups_loss(groups: list[Group], scores_B: Tensor, config: RunConfig) -> Tensor:
    """Weighted loss summed over the groups: of their choices, or else of their pairs."""
    device = scores_B.device
    places, numbers = [], []
    for group, first in zip(groups, _starts(groups), strict=True):
        learnt = float(not group.choices)
        for pair in group.pairs:
            places.append((first + pair.chosen, first + pair.rejected))
            numbers.append((pair.learnt_prob, pair.margin, pair.weight, learnt))
    chosen, rejected = torch.tensor(places, device=device).T.unbind()
    chosen_P, rejected_P = scores_B[chosen], scores_B[rejected]
    target_P, margin_P, weight_P, learnt_P = torch.tensor(numbers, device=device).T.unbind()
    preference_P = learnt_P * preference_loss(chosen_P, rejected_P, target_P, margin_P)
    centering_P = config.rm.centering_coef * centering_loss(chosen_P, rejected_P)
    pairs = (weight_P * (preference_P + centering_P)).sum()
    return pairs + _choices_loss(groups, scores_B)


def auxiliary_loss(groups: list[Group], logits_B: Tensor) -> Tensor:
    """Cross-entropy with what people said of single answers: a mean over each group's, summed.

    A group without such judgements adds nothing. Source: the auxiliary loss of GopherCite (Menick
    et al. 2022, arXiv:2203.11147), which predicts whether an answer is supported and plausible.
    """
    total = 0 * logits_B.sum()
    for group, first in zip(groups, _starts(groups), strict=True):
        if group.qualities:
            places = torch.tensor([first + place for place in group.qualities])
            quality = logits_B.new_tensor([*group.qualities.values()])
            total = total + binary_cross_entropy_with_logits(
                logits_B[places.to(logits_B.device)], quality
            )
    return total


def _choices_loss(groups: list[Group], scores_B: Tensor) -> Tensor:
    device = scores_B.device
    rows = [
        (choice, first)
        for group, first in zip(groups, _starts(groups), strict=True)
        for choice in group.choices
    ]
    if not rows:
        return torch.zeros((), device=device)
    candidates_SB = torch.zeros(len(rows), len(scores_B), dtype=torch.bool)
    for row, (choice, first) in enumerate(rows):
        candidates_SB[row, [first + place for place in choice.candidates]] = True
    winner_S = torch.tensor([first + choice.winner for choice, first in rows], device=device)
    weight_S = torch.tensor([choice.weight for choice, _ in rows], device=device)
    return (weight_S * choice_loss(scores_B, winner_S, candidates_SB.to(device))).sum()


def outcomes_in(groups: list[Group], scores: list[float]) -> list[Outcome]:
    """How every pair of the groups came out, in their order."""
    return [
        Outcome(
            scores[first + pair.chosen] - scores[first + pair.rejected],
            pair.target_prob,
            pair.weight,
        )
        for group, first in zip(groups, _starts(groups), strict=True)
        for pair in group.pairs
    ]


def _starts(groups: list[Group]) -> list[int]:
    """The place of each group's first answer among all of them."""
    return [sum(len(group.texts) for group in groups[:i]) for i in range(len(groups))]


def _without_score(groups: list[Group], outcomes: list[Outcome]) -> list[str]:
    """The pairs whose gap is not a number."""
    pairs = [pair for group in groups for pair in group.pairs]
    return [
        pair.row["pair_id"]
        for pair, outcome in zip(pairs, outcomes, strict=True)
        if not math.isfinite(outcome.gap)
    ]


def _check_finite(broken: list[str]) -> None:
    if broken:
        raise UserError(
            f"the reward model's scores are not finite on {len(broken)} pairs of this batch, the "
            f"first is pair_id {broken[0]} of rm/pairs.parquet: lower rm.learning_rate, or use "
            "train.precision fp32"
        )
