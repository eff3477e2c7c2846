"""Log-probabilities and values of response tokens.

Texts are right-padded and need no attention mask: a causal model's real tokens never see what
comes after them. Masks come from lengths, never from `ids != pad`, so any pad id works.

Shapes: B texts, L tokens of prompt and response, T response tokens, K positions whose logits are
needed, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextBatch:
    """Prompts with their responses, ready for a forward pass."""

    ids_BL: Tensor
    prompt_lengths_B: Tensor
    response_lengths_B: Tensor

    @property
    def mask_BT(self) -> Tensor:
        """1.0 on response tokens."""
        longest = max(1, int(self.response_lengths_B.max()))
        steps_T = torch.arange(longest, device=self.ids_BL.device)
        return (steps_T < self.response_lengths_B[:, None]).float()

    @property
    def last_B(self) -> Tensor:
        """Position of the last real token."""
        return self.prompt_lengths_B + self.response_lengths_B - 1


def text_batch(
    prompts: list[list[int]], responses: list[list[int]], device: torch.device
) -> TextBatch:
    """Join, right-pad with id 0 and move to the device."""
    texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    ids_BL = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in zip(ids_BL, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    return TextBatch(
        ids_BL=ids_BL.to(device),
        prompt_lengths_B=torch.tensor([len(prompt) for prompt in prompts], device=device),
        response_lengths_B=torch.tensor([len(response) for response in responses], device=device),
    )


def response_logprobs(
    model: Callable[..., Any], batch: TextBatch, temperature: float, *, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """log pi(token) at the sampling temperature, and the entropy, in nats, both (B, T).

    Logits are computed from the first response position of the batch on, not for the prompts.
    Entropy is 0 unless asked for, and has no gradient. What lies behind a response is 0. Without
    the temperature, policy and sampler would differ (NVIDIA/NeMo-Aligner#46).
    """
    first = int(batch.prompt_lengths_B.min()) - 1
    length = batch.ids_BL.shape[1]
    positions_K = torch.arange(first, length - 1, device=batch.ids_BL.device)
    output = model(input_ids=batch.ids_BL, use_cache=False, logits_to_keep=positions_K)
    targets_BK = batch.ids_BL[:, first + 1 :]
    pick: Any = _TargetLogprobs.apply
    logprobs_BK, entropy_BK = pick(output.logits, targets_BK, temperature, with_entropy)
    return _align(logprobs_BK, batch, first), _align(entropy_BK, batch, first)


class _TargetLogprobs(torch.autograd.Function):
    """log softmax(logits / T) at one token of each position, and the entropy, both (B, K).

    Row by row, so that nothing as large as the logits is made but their gradient. Left to autograd,
    the same formula holds four such copies at once.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_BKV: Tensor, targets_BK: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """logit - logsumexp; entropy = logsumexp - mean logit."""
        logprobs_BK = torch.empty(targets_BK.shape, device=targets_BK.device)
        normaliser_BK, entropy_BK = torch.empty_like(logprobs_BK), torch.zeros_like(logprobs_BK)
        for row, logits_KV in enumerate(logits_BKV):
            scaled_KV = logits_KV.float() / temperature
            normaliser_K = scaled_KV.logsumexp(dim=-1)
            picked_K = scaled_KV.gather(1, targets_BK[row][:, None]).squeeze(1)
            normaliser_BK[row], logprobs_BK[row] = normaliser_K, picked_K - normaliser_K
            if with_entropy:
                chances_KV = (scaled_KV - normaliser_K[:, None]).exp()
                entropy_BK[row] = normaliser_K - (chances_KV * scaled_KV).sum(dim=-1)
        ctx.save_for_backward(logits_BKV, targets_BK, normaliser_BK)
        ctx.mark_non_differentiable(entropy_BK)
        ctx.temperature = temperature
        return logprobs_BK, entropy_BK

    @staticmethod
    def backward(ctx: Any, slope_BK: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        """(1 at the token - softmax) / T, times what comes from above."""
        logits_BKV, targets_BK, normaliser_BK = ctx.saved_tensors
        gradient_BKV = torch.empty_like(logits_BKV)
        for row, logits_KV in enumerate(logits_BKV):
            slope_K1 = slope_BK[row][:, None]
            scaled_KV = logits_KV.float() / ctx.temperature
            gradient_KV = (scaled_KV - normaliser_BK[row][:, None]).exp_().mul_(-slope_K1)
            gradient_KV.scatter_add_(1, targets_BK[row][:, None], slope_K1)
            gradient_BKV[row] = gradient_KV.div_(ctx.temperature)
        return gradient_BKV, None, None, None


def response_values(critic: Callable[[Tensor], Tensor], batch: TextBatch) -> Tensor:
    """V(state before each response token), (B, T); 0 behind the response."""
    values_BL = critic(batch.ids_BL)
    return _align(values_BL[:, :-1].float(), batch, first=0)


def text_scores(model: Callable[[Tensor], Tensor], batch: TextBatch) -> Tensor:
    """The scalar read at each text's last real token, (B); of several heads, (B, heads)."""
    scores_BL = model(batch.ids_BL)
    rows_B = torch.arange(len(scores_BL), device=scores_BL.device)
    return scores_BL[rows_B, batch.last_B].float()


def _align(x_BK: Tensor, batch: TextBatch, first: int) -> Tensor:
    """Shift every row so that column 0 belongs to its first response token, (B, T)."""
    mask_BT = batch.mask_BT
    steps_T = torch.arange(mask_BT.shape[1], device=x_BK.device)
    columns_BT = (batch.prompt_lengths_B[:, None] - 1 - first + steps_T).clamp(
        max=x_BK.shape[1] - 1
    )
    return x_BK.gather(1, columns_BT) * mask_BT
