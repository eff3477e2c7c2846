"""Parts of a reward into one number: weights, units and gates.

Shapes: B answers, M models of an ensemble.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rewards:
    """The reward of each answer, and what it is made of."""

    total_B: Tensor
    parts: dict[str, Tensor]
    """Name -> (B), in the part's own units."""
    gated_B: Tensor | None
    """True where a gate shut the answer out; None where there are no gates."""

    @property
    def metrics(self) -> dict[str, float]:
        """`reward/NAME`: the mean of each part; `reward/gated`: the share that was shut out."""
        means = {f"reward/{name}": float(part_B.mean()) for name, part_B in self.parts.items()}
        if self.gated_B is None:
            return means
        return means | {"reward/gated": float(self.gated_B.double().mean())}


def mixed(
    parts: Mapping[str, Tensor],
    weights: Mapping[str, float],
    least: Mapping[str, float],
    gated: float,
) -> Rewards:
    """sum_k weight_k part_k, or `gated` where a part is below its `least`."""
    total_B = torch.stack([weights[name] * part_B for name, part_B in parts.items()]).sum(dim=0)
    if not least:
        return Rewards(total_B, dict(parts), None)
    shut_B = torch.zeros(len(total_B), dtype=torch.bool)
    for name, bound in least.items():
        shut_B |= parts[name] < bound
    return Rewards(torch.where(shut_B, gated, total_B), dict(parts), shut_B)


def cautious(scores_MB: Tensor, uncertainty: float) -> Tensor:
    """Mean over the ensemble less `uncertainty` times its variance, (B).

    Source: Coste et al. 2024 (arXiv:2310.02743), uncertainty-weighted optimisation.
    """
    return scores_MB.mean(dim=0) - uncertainty * scores_MB.var(dim=0, correction=0)


def excess(lengths: Sequence[int], longest: int) -> Tensor:
    """Minus the tokens above `longest`, (B)."""
    return -(torch.tensor(lengths, dtype=torch.float32) - longest).clamp(min=0)
