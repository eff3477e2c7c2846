"""A value head on the policy's trunk: one forward pass says log-probabilities and values.

Shapes: B texts, L tokens of prompt and response, T response tokens, D hidden, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from align.policy.logprobs import TextBatch, response_logprobs, response_values


@dataclass
class LogitsAndValues(ModelOutput):
    """What a policy with a value head says."""

    logits: Tensor | None = None  # of the positions that were asked for, (B, K, V)
    token_values: Tensor | None = None  # V of every token, (B, L)


class PolicyWithValues(nn.Module):
    """A causal model of which all weights are trained, and a value head, at first 0."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.head = new_head(model)

    def forward(self, **inputs: Any) -> LogitsAndValues:
        """Logits as the model gives them, and a value for every token."""
        return logits_and_values(self.model, self.model, self.head, inputs)


def new_head(model: PreTrainedModel) -> nn.Parameter:
    """(1, D) of zeros: before it has learnt anything it claims nothing."""
    return nn.Parameter(torch.zeros(1, model.config.hidden_size))


def logits_and_values(
    call: Callable[..., Any], model: PreTrainedModel, head_1D: Tensor, inputs: dict[str, Any]
) -> LogitsAndValues:
    """Of one forward pass; `call` runs the `model`, whose last hidden states the head reads."""
    kept: list[Tensor] = []
    body: Any = model.base_model
    # A hook: only the model itself knows what it does between its last hidden states and logits.
    handle = body.register_forward_hook(lambda *passed: kept.append(passed[2].last_hidden_state))
    try:
        logits: Tensor = call(**inputs).logits
    finally:
        handle.remove()
    (hidden_BLD,) = kept
    return LogitsAndValues(logits, (hidden_BLD @ head_1D.T).squeeze(-1))


def logprobs_and_values(
    policy: Callable[..., Any], batch: TextBatch, temperature: float, *, with_entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """log pi(token), entropy, and V(state before the token), by one forward pass; all (B, T)."""
    kept: list[Tensor] = []

    def call(**inputs: Any) -> Any:
        output = policy(**inputs)
        kept.append(output.token_values)
        return output

    said = response_logprobs(call, batch, temperature, with_entropy=with_entropy)
    return *said, response_values(lambda *_, **__: kept[0], batch)
