"""The decode loop: one token for every unfinished answer at a time.

Shapes: B answers still being written, L tokens so far, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from align.policy.rollout import Sample, SampleRequest, uniforms


@dataclass(frozen=True)
class SamplingSettings:
    """How answers are drawn. Top-k and top-p have no place in training: PPO would score a
    distribution that it did not sample from."""

    temperature: float
    max_new_tokens: int
    eos_id: int


@dataclass
class _Answer:
    ids: list[int]
    logprobs: list[float]
    finished: bool = False


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    requests: Sequence[SampleRequest],
    settings: SamplingSettings,
    policy_version: int = 0,
) -> list[Sample]:
    """Draw one answer per request, in the order of the requests.

    An answer depends on its prompt, its noise key and the weights. (Its bits also depend, below
    1e-6, on the rows decoded beside it, so the caller cuts units by the config alone.)
    """
    noise = np.stack([uniforms(r.noise_key, settings.max_new_tokens) for r in requests])
    noise_B = torch.from_numpy(noise).to(model.device)
    answers = [_Answer([], []) for _ in requests]
    rows = list(range(len(requests)))
    ids_BL, mask_BL = _left_pad([request.prompt_ids for request in requests], model.device)
    positions_BL = (mask_BL.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    for step in range(settings.max_new_tokens):
        output = model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=positions_BL,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens_B, logprobs_B = _draw(output.logits[:, -1], noise_B[rows, step], settings)
        going = _record(answers, rows, tokens_B, logprobs_B, settings.eos_id)
        if not going:
            break
        if len(going) < len(rows):
            keep = torch.tensor(going, device=model.device)
            cache.batch_select_indices(keep)
            rows = [rows[i] for i in going]
            tokens_B, mask_BL, positions_BL = tokens_B[keep], mask_BL[keep], positions_BL[keep]
        ids_BL = tokens_B[:, None]
        mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(rows), 1)], dim=1)
        positions_BL = positions_BL[:, -1:] + 1
    return [Sample(a.ids, a.logprobs, a.finished, policy_version) for a in answers]


def _left_pad(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, L); padding is id 0 with mask 0."""
    longest = max(map(len, prompts))
    ids_BL = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask_BL = torch.zeros(len(prompts), longest, dtype=torch.long)
    for ids_L, mask_L, prompt in zip(ids_BL, mask_BL, prompts, strict=True):
        ids_L[longest - len(prompt) :] = torch.tensor(prompt)
        mask_L[longest - len(prompt) :] = 1
    return ids_BL.to(device), mask_BL.to(device)


def _draw(logits_BV: Tensor, noise_B: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Invert the cumulative distribution at one uniform number per row: tokens and log-probs."""
    logprobs_BV = (logits_BV.float() / settings.temperature).log_softmax(dim=-1)
    cumulative_BV = logprobs_BV.double().exp().cumsum(dim=-1)
    # The sum ends within rounding of 1; scaling by it keeps the last token reachable and safe.
    threshold_B1 = noise_B[:, None] * cumulative_BV[:, -1:]
    tokens_B1 = torch.searchsorted(cumulative_BV, threshold_B1, right=True)
    tokens_B1 = tokens_B1.clamp(max=logits_BV.shape[-1] - 1)
    return tokens_B1.squeeze(1), logprobs_BV.gather(1, tokens_B1).squeeze(1)


def _record(
    answers: list[_Answer], rows: list[int], tokens_B: Tensor, logprobs_B: Tensor, eos_id: int
) -> list[int]:
    """Append the new tokens; return which of the rows go on."""
    going = []
    for i, (row, token, logprob) in enumerate(
        zip(rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True)
    ):
        answers[row].ids.append(token)
        answers[row].logprobs.append(logprob)
        answers[row].finished = token == eos_id
        if not answers[row].finished:
            going.append(i)
    return going
