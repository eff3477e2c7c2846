"""Log-probabilities, values and scores of responses, in packed or in padded texts.

Packed, all texts lie in one row and positions tell them apart (`attention.py`): no token is padding
and nothing is computed for a position that nobody asks for. Padded, texts fill rows to the right,
and a causal model's real tokens never see what comes after them. Neither needs a mask, and real
tokens are told by lengths, never by `ids != pad`, so any pad id works.

Shapes: B texts, R rows (1 where packed, else B), L tokens of a row, T response tokens, N response
tokens of all texts, K columns whose logits are needed, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

POSITIONS_AT_ONCE = 128
"""Logits of so many positions stay in a CPU's cache from one operation to the next."""


@dataclass(frozen=True)
class TextBatch:
    """Prompts with their responses, ready for a forward pass."""

    ids_RL: Tensor
    positions_RL: Tensor | None
    """Where packed; they start over at each text."""
    starts_B: Tensor
    """Where each text begins, counted over all rows."""
    prompt_lengths_B: Tensor
    response_lengths_B: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Ids, and positions if packed: what a model of token scores reads."""
        return (self.ids_RL,) if self.positions_RL is None else (self.ids_RL, self.positions_RL)

    @property
    def mask_BT(self) -> Tensor:
        """1.0 on response tokens."""
        longest = max(1, int(self.response_lengths_B.max()))
        steps_T = torch.arange(longest, device=self.ids_RL.device)
        return (steps_T < self.response_lengths_B[:, None]).float()

    @property
    def before_N(self) -> Tensor:
        """The place before each response token, counted over all rows: there it is foretold."""
        mask_BT = self.mask_BT.bool()
        steps_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        places_BT = (self.starts_B + self.prompt_lengths_B - 1)[:, None] + steps_T
        return places_BT[mask_BT]

    @property
    def last_B(self) -> Tensor:
        """The place of each text's last token, counted over all rows."""
        return self.starts_B + self.prompt_lengths_B + self.response_lengths_B - 1

    def by_text(self, x_N: Tensor) -> Tensor:
        """From all response tokens to (B, T), with 0 behind a response."""
        mask_BT = self.mask_BT
        return torch.zeros_like(mask_BT).masked_scatter(mask_BT.bool(), x_N.float())


def text_batch(
    prompts: list[list[int]],
    responses: list[list[int]],
    device: torch.device,
    *,
    packed: bool = False,
) -> TextBatch:
    """Join, lay out (padding is id 0) and move to the device."""
    texts = [
        torch.tensor(prompt + response) for prompt, response in zip(prompts, responses, strict=True)
    ]
    lengths_B = torch.tensor([len(text) for text in texts])
    if packed:
        ids_RL = torch.cat(texts)[None]
        positions_RL = torch.cat([torch.arange(len(text)) for text in texts])[None]
        starts_B = lengths_B.cumsum(0) - lengths_B
    else:
        ids_RL = pad_sequence(texts, batch_first=True)
        positions_RL = None
        starts_B = torch.arange(len(texts)) * ids_RL.shape[1]
    return TextBatch(
        ids_RL=ids_RL.to(device),
        positions_RL=None if positions_RL is None else positions_RL.to(device),
        starts_B=starts_B.to(device),
        prompt_lengths_B=torch.tensor([len(prompt) for prompt in prompts], device=device),
        response_lengths_B=torch.tensor([len(response) for response in responses], device=device),
    )


def response_logprobs(
    model: Callable[..., Any], batch: TextBatch, temperature: float, *, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """log pi(token) at the sampling temperature, and the entropy, in nats, both (B, T).

    Entropy is 0 unless asked for, and has no gradient. What lies behind a response is 0. Without
    the temperature, policy and sampler would differ (NVIDIA/NeMo-Aligner#46).
    """
    columns_K = _foretelling(batch)
    places = {} if batch.positions_RL is None else {"position_ids": batch.positions_RL}
    output = model(input_ids=batch.ids_RL, use_cache=False, logits_to_keep=columns_K, **places)
    targets_RK = batch.ids_RL[:, columns_K + 1]
    pick: Any = _TargetLogprobs.apply
    found = pick(output.logits, targets_RK, temperature, with_entropy)
    logprobs_BT, entropy_BT = (batch.by_text(_of_responses(x_RK, batch)) for x_RK in found)
    return logprobs_BT, entropy_BT


def _foretelling(batch: TextBatch) -> Tensor:
    """The columns whose logits are needed, (K); of padded rows from the first response on."""
    if batch.positions_RL is not None:
        return batch.before_N
    first = int(batch.prompt_lengths_B.min()) - 1
    return torch.arange(first, batch.ids_RL.shape[1] - 1, device=batch.ids_RL.device)


def _of_responses(x_RK: Tensor, batch: TextBatch) -> Tensor:
    """What belongs to the response tokens, (N)."""
    if batch.positions_RL is not None:
        return x_RK[0]
    length = batch.ids_RL.shape[1]
    left_out = length - 1 - x_RK.shape[1]
    return x_RK[batch.before_N // length, batch.before_N % length - left_out]


class _TargetLogprobs(torch.autograd.Function):
    """log softmax(logits / T) at one token of each position, and the entropy, both (R, K).

    The gradient is written over the logits, some positions at a time, so nothing else is as large
    as they are. Left to autograd, the same formula holds four such copies at once.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_RKV: Tensor, targets_RK: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """Entropy = -sum p log p."""
        logprobs_RK = torch.empty(targets_RK.shape, device=targets_RK.device)
        entropy_RK = torch.zeros_like(logprobs_RK)
        rows = (logits_RKV.flatten(0, 1), targets_RK.flatten(), logprobs_RK.view(-1))
        parts = zip(*(x.split(POSITIONS_AT_ONCE) for x in rows), strict=True)
        for (logits_PV, targets_P, logprobs_P), entropy_P in zip(
            parts, entropy_RK.view(-1).split(POSITIONS_AT_ONCE), strict=True
        ):
            all_PV = _scaled(logits_PV, temperature).log_softmax(dim=-1)
            logprobs_P.copy_(all_PV.gather(1, targets_P[:, None]).squeeze(1))
            if with_entropy:
                entropy_P.copy_(-(all_PV.exp() * all_PV).sum(dim=-1))
        ctx.save_for_backward(logits_RKV, targets_RK)
        ctx.mark_non_differentiable(entropy_RK)
        ctx.temperature = temperature
        return logprobs_RK, entropy_RK

    @staticmethod
    def backward(ctx: Any, slope_RK: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        """(1 at the token - softmax) / T, times what comes from above."""
        logits_RKV, targets_RK = ctx.saved_tensors
        gradient_RKV = logits_RKV.contiguous()
        slopes = slope_RK.flatten() / ctx.temperature
        rows = (gradient_RKV.view(-1, gradient_RKV.shape[-1]), targets_RK.flatten(), slopes)
        for x_PV, targets_P, slope_P in zip(
            *(x.split(POSITIONS_AT_ONCE) for x in rows), strict=True
        ):
            slope_P1 = slope_P[:, None]
            chances_PV = _scaled(x_PV, ctx.temperature).softmax(dim=-1)
            torch.mul(chances_PV, -slope_P1, out=chances_PV)
            x_PV.copy_(chances_PV.scatter_add_(1, targets_P[:, None], slope_P1))
        return gradient_RKV, None, None, None


def _scaled(logits_PV: Tensor, temperature: float) -> Tensor:
    logits_PV = logits_PV.float()
    return logits_PV if temperature == 1 else logits_PV / temperature


def response_values(critic: Callable[..., Tensor], batch: TextBatch) -> Tensor:
    """V(state before each response token), (B, T); 0 behind the response."""
    values_RL = critic(*batch.inputs)
    return batch.by_text(values_RL.flatten()[batch.before_N])


def text_scores(model: Callable[..., Tensor], batch: TextBatch) -> Tensor:
    """The scalar read at each text's last real token, (B); of several heads, (B, heads)."""
    scores_RL = model(*batch.inputs)
    return scores_RL.flatten(0, 1)[batch.last_B].float()
