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
    Entropy is 0 unless asked for, since it needs a copy as large as the logits. What lies behind
    a response is 0. Without the temperature, policy and sampler would differ
    (NVIDIA/NeMo-Aligner#46).
    """
    first = int(batch.prompt_lengths_B.min()) - 1
    length = batch.ids_BL.shape[1]
    positions_K = torch.arange(first, length - 1, device=batch.ids_BL.device)
    output = model(input_ids=batch.ids_BL, use_cache=False, logits_to_keep=positions_K)
    logits_BKV = output.logits.float() / temperature
    normaliser_BK = logits_BKV.logsumexp(dim=-1)
    targets_BK = batch.ids_BL[:, first + 1 :]
    picked_BK = logits_BKV.gather(-1, targets_BK[..., None]).squeeze(-1)
    logprobs_BT = _align(picked_BK - normaliser_BK, batch, first)
    if not with_entropy:
        return logprobs_BT, torch.zeros_like(logprobs_BT)
    mean_logit_BK = ((logits_BKV - normaliser_BK[..., None]).exp() * logits_BKV).sum(dim=-1)
    return logprobs_BT, _align(normaliser_BK - mean_logit_BK, batch, first)


def response_values(critic: Callable[[Tensor], Tensor], batch: TextBatch) -> Tensor:
    """V(state before each response token), (B, T); 0 behind the response."""
    values_BL = critic(batch.ids_BL)
    return _align(values_BL[:, :-1].float(), batch, first=0)


def text_scores(model: Callable[[Tensor], Tensor], batch: TextBatch) -> Tensor:
    """The scalar read at each text's last real token, (B)."""
    scores_BL = model(batch.ids_BL)
    return scores_BL.gather(1, batch.last_B[:, None]).squeeze(1).float()


def _align(x_BK: Tensor, batch: TextBatch, first: int) -> Tensor:
    """Shift every row so that column 0 belongs to its first response token, (B, T)."""
    mask_BT = batch.mask_BT
    steps_T = torch.arange(mask_BT.shape[1], device=x_BK.device)
    columns_BT = (batch.prompt_lengths_B[:, None] - 1 - first + steps_T).clamp(
        max=x_BK.shape[1] - 1
    )
    return x_BK.gather(1, columns_BT) * mask_BT
