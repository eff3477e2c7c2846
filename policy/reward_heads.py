"""What a reward model's head gets beside its weights: units, and in training a second head.

Shapes: B sequences, L tokens, D hidden.
"""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.policy.model import TokenScores


def set_reward_units(model: PreTrainedModel | PeftModel, *, shift: float, scale: float) -> None:
    """Make the reward (score - shift) / scale; the model's config keeps both.

    Most heads have no bias into which the shift could go, so the stock class gives the score.
    """
    stored: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    stored.config.reward_shift = shift
    stored.config.reward_scale = scale


class TwoHeads(TokenScores):
    """A second scalar for every token, by a head that only training has (GopherCite)."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__(model)
        self.auxiliary = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.auxiliary.weight)
        nn.init.zeros_(self.auxiliary.bias)

    def forward(self, ids_BL: Tensor, positions_BL: Tensor | None = None) -> Tensor:
        """Reward and auxiliary logit, (B, L, 2)."""
        hidden_BLD = self.hidden(ids_BL, positions_BL)
        return torch.stack(
            [self.rewards(hidden_BLD), self.auxiliary(hidden_BLD).squeeze(-1)], dim=-1
        )
