"""Answers sampled in this process."""

from collections.abc import Callable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.pipeline import answers
from align.pipeline.answers import (
    answer_text,
    evaluation_settings,
    sample_answers,
    sampling_settings,
)
from align.pipeline.config import RunConfig
from align.policy.config import EvaluationConfig, RolloutConfig
from align.policy.rollout import Sample, SampleRequest
from align.policy.sample import SamplingSettings, sample

SETTINGS = SamplingSettings(temperature=0.7, max_new_tokens=5, eos_id=2)


def test_answers_come_in_the_order_of_their_prompts(
    tiny_causal: Callable[[str], PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    model = tiny_causal("llama")
    prompts = [[5] * length for length in (9, 2, 7, 1, 4)]
    found = sample_answers(
        model, tokenizer, prompts, SETTINGS, (3, answers.EVALUATION_STEP), per_prompt=2
    )
    for place, prompt in enumerate(prompts):
        for index in range(2):
            key = (3, answers.EVALUATION_STEP, place, index)
            (alone,) = sample(model, [SampleRequest(prompt, key)], SETTINGS)
            assert found[2 * place + index].response_ids == alone.response_ids


def test_settings_are_those_of_the_config(tokenizer: PreTrainedTokenizerBase) -> None:
    config = RunConfig(name="x", rollout=RolloutConfig(temperature=0.3, max_new_tokens=7))
    assert sampling_settings(config, tokenizer) == SamplingSettings(0.3, 7, eos_id=4)
    assert tokenizer.decode([4]) == "<|im_end|>"


def test_held_out_prompts_are_answered_as_in_training_but_for_what_evaluation_says(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rollout = RolloutConfig(temperature=0.3, max_new_tokens=7, stop=("Human:",))
    config = RunConfig(name="x", rollout=rollout)
    assert evaluation_settings(config, tokenizer) == sampling_settings(config, tokenizer)
    said = EvaluationConfig(temperature=0.1, top_k=5, top_p=0.5, min_new_tokens=2)
    changed = RunConfig(name="x", rollout=rollout, evaluation=said)
    assert sampling_settings(changed, tokenizer) == sampling_settings(config, tokenizer)
    assert evaluation_settings(changed, tokenizer) == SamplingSettings(
        0.1, 7, 4, stop=("Human:",), top_k=5, top_p=0.5, min_new_tokens=2
    )


def test_a_person_reads_no_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer(" 你好 \n<|im_end|>")["input_ids"]
    assert answer_text(tokenizer, Sample(ids, [0.0] * len(ids), "eos", 0)) == "你好"
