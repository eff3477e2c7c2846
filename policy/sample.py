"""The decode loop: one token for every unfinished answer at a time.

Shapes: N answers of a unit, B of them still being written, T tokens of an answer, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from align.data.errors import UserError
from align.policy.decoder import Decoder
from align.policy.draw import draw
from align.policy.rollout import FinishReason, Sample, SampleRequest, uniforms

REASONS: tuple[FinishReason, ...] = ("length", "eos", "stop")


@dataclass(frozen=True)
class SamplingSettings:
    """How answers are drawn.

    Top-k, top-p and a minimum length have no place in training: PPO would score a distribution
    that it did not sample from.
    """

    temperature: float
    max_new_tokens: int
    eos_id: int
    stop: tuple[str, ...] = ()
    """Texts with which an answer ends; they stay part of it."""
    top_k: int | None = None
    top_p: float | None = None
    min_new_tokens: int = 0
    """Tokens before which neither EOS nor a stop text ends an answer."""


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    requests: Sequence[SampleRequest],
    settings: SamplingSettings,
    policy_version: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Sample]:
    """Draw one answer per request, in the order of the requests; stop texts need the tokenizer.

    An answer depends on its prompt, its noise key and the weights. (Its bits also depend, below
    1e-6, on the rows decoded beside it, so the caller cuts units by the config alone.)
    Raises: UserError where a prompt leaves no room for an answer.
    """
    check_room(model.config, requests, settings)
    count, most, device = len(requests), settings.max_new_tokens, model.device
    noise = np.stack([uniforms(request.noise_key, most) for request in requests])
    noise_NT = torch.from_numpy(noise).to(device)
    tokens_NT = torch.zeros(count, most, dtype=torch.long, device=device)
    logprobs_NT = torch.zeros(count, most, device=device)
    length_N = torch.full((count,), most, device=device)
    reason_N = torch.full((count,), REASONS.index("length"), device=device)
    rows_B = torch.arange(count, device=device)
    decoder = Decoder(model, [request.prompt_ids for request in requests], most)
    logits_BV = decoder.read_prompts()
    for step in range(most):
        tokens_B, logprobs_B = _draw(logits_BV, noise_NT[rows_B, step], step, settings)
        tokens_NT[rows_B, step], logprobs_NT[rows_B, step] = tokens_B, logprobs_B
        reason_B = _ending(tokens_NT[rows_B, : step + 1], settings, tokenizer)
        ended_B = reason_B != REASONS.index("length")
        if bool(ended_B.any()):
            length_N[rows_B[ended_B]], reason_N[rows_B] = step + 1, reason_B
            keep = close_gaps(ended_B)
            rows_B, tokens_B = rows_B[keep], tokens_B[keep]
            decoder.keep(keep)
        if not len(rows_B) or step + 1 == most:
            break
        logits_BV = decoder.append(tokens_B)
    drawn = (tensor.tolist() for tensor in (tokens_NT, logprobs_NT, length_N, reason_N))
    return [
        Sample(ids[:length], logprobs[:length], REASONS[reason], policy_version)
        for ids, logprobs, length, reason in zip(*drawn, strict=True)
    ]


def check_room(
    config: PretrainedConfig, requests: Sequence[SampleRequest], settings: SamplingSettings
) -> None:
    """A UserError unless every prompt and the longest answer to it fit the model's context."""
    context, most = config.max_position_embeddings, settings.max_new_tokens
    for place, request in enumerate(requests):
        length = len(request.prompt_ids)
        if length + most > context:
            raise UserError(
                f"prompt {place} has {length} tokens: with an answer of up to {most} it exceeds "
                f"the model's context of {context}; shorten it, or ask for fewer tokens"
            )


def close_gaps(ended_B: Tensor) -> Tensor:
    """Places of the rows that go on; those from the end take the places of those that ended."""
    places_B = torch.arange(len(ended_B), device=ended_B.device)
    going = places_B[~ended_B]
    is_gap_B = ended_B[: len(going)]
    keep = places_B[: len(going)]
    keep[is_gap_B] = going[going >= len(going)]
    return keep


def _draw(
    logits_BV: Tensor, noise_B: Tensor, step: int, settings: SamplingSettings
) -> tuple[Tensor, Tensor]:
    return draw(
        logits_BV,
        noise_B,
        settings.temperature,
        settings.top_k,
        settings.top_p,
        settings.eos_id if step + 1 < settings.min_new_tokens else None,
    )


def _ending(
    tokens_BT: Tensor, settings: SamplingSettings, tokenizer: PreTrainedTokenizerBase | None
) -> Tensor:
    """For each row the place in `REASONS` of why it ends here; of `length` if it goes on."""
    reason_B = (tokens_BT[:, -1] == settings.eos_id).long()
    if settings.stop and tokens_BT.shape[1] >= settings.min_new_tokens:
        assert tokenizer is not None, "stop texts need a tokenizer"
        at_stop_B = at_stop_text(tokens_BT, settings.stop, tokenizer)
        reason_B[at_stop_B & (reason_B == 0)] = REASONS.index("stop")
    return reason_B


def at_stop_text(
    tokens_BT: Tensor, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Tensor:
    """Which rows hold one of the texts near their end, (B,).

    transformers' `StopStringCriteria` does not take every tokenizer, word-level ones among them.
    """
    # A byte of text takes at most a token; one more, for tokenizers that drop a leading space.
    most = 1 + max(len(text.encode()) for text in texts)
    tails = tokenizer.batch_decode(tokens_BT[:, -most:].tolist())
    found = [any(text in tail for text in texts) for tail in tails]
    return torch.tensor(found, device=tokens_BT.device)
