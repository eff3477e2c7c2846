"""Sampling answers in this process: for annotators to judge, and for the report."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.pipeline.config import RunConfig
from align.policy.rollout import Sample, SampleRequest, cut_units
from align.policy.sample import SamplingSettings, sample

ROWS_AT_ONCE = 128
EVALUATION_STEP = 2**32
FEEDBACK_STEP = 2**33
PROBE_STEP = 2**34
"""Stand where a training step's number would in a noise key."""


def sampling_settings(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> SamplingSettings:
    """Sampling as PPO does it."""
    eos_id, rollout = tokenizer.eos_token_id, config.rollout
    assert isinstance(eos_id, int)
    return SamplingSettings(rollout.temperature, rollout.max_new_tokens, eos_id, rollout.stop)


def evaluation_settings(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> SamplingSettings:
    """Sampling as `evaluation` changes it, for held-out prompts."""
    said = config.evaluation
    return replace(
        sampling_settings(config, tokenizer),
        temperature=said.temperature or config.rollout.temperature,
        top_k=said.top_k,
        top_p=said.top_p,
        min_new_tokens=said.min_new_tokens,
    )


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    settings: SamplingSettings,
    noise_key: tuple[int, int],
    per_prompt: int = 1,
) -> list[Sample]:
    """Answers to prompts of token ids, in their order, `per_prompt` to each in a row.

    `noise_key` is (run seed, step); evaluation and feedback have step numbers of their own.
    """
    requests = [
        SampleRequest(ids, (*noise_key, position, index))
        for position, ids in enumerate(prompts)
        for index in range(per_prompt)
    ]
    answers: dict[int, Sample] = {}
    for unit in cut_units(requests, ROWS_AT_ONCE):
        drawn = sample(model, [requests[i] for i in unit], settings, tokenizer=tokenizer)
        answers.update(zip(unit, drawn, strict=True))
    return [answers[index] for index in range(len(requests))]


def answer_text(tokenizer: PreTrainedTokenizerBase, answer: Sample) -> str:
    """What a person would read."""
    text = tokenizer.decode(answer.response_ids, skip_special_tokens=True)
    assert isinstance(text, str)
    return text.strip()
