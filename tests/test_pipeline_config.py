"""The models themselves: frozen, complete in words, and deaf to combinations that cannot work."""

import pytest
from pydantic import ValidationError

from align.data.config_problems import section_in
from align.data.errors import ConfigError
from align.pipeline import reference
from align.pipeline.config import RunConfig
from align.pipeline.loading import default_config


def config(**sections: object) -> RunConfig:
    return RunConfig.model_validate({"name": "test", **sections})


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().seed = 2


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-flag", ".hidden", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        RunConfig.model_validate({"name": name})


@pytest.mark.parametrize(
    ("sections", "keys"),
    [
        ({"train": {"offload": "optimizer"}}, ("train.offload", "train.zero_stage")),
        ({"train": {"offload": "all", "zero_stage": 2}}, ("train.offload", "train.zero_stage")),
        (
            {"data": {"max_length": 64, "max_prompt_length": 64}},
            ("data.max_prompt_length", "data.max_length"),
        ),
        ({"rollout": {"max_new_tokens": 400}}, ("rollout.max_new_tokens", "data.max_length")),
        (
            {"train": {"micro_batch_tokens": 100}},
            ("train.micro_batch_tokens", "data.max_length"),
        ),
        (
            {"evaluation": {"min_new_tokens": 90}},
            ("evaluation.min_new_tokens (90)", "rollout.max_new_tokens (64)"),
        ),
        ({"model": {"attention": "flash_attention_2"}}, ("model.attention", "train.precision")),
        (
            {"train": {"ranks": 3}, "sft": {"batch_size": 32}},
            ("sft.batch_size", "train.ranks"),
        ),
        ({"ppo": {"batch_size": 10, "minibatches": 4}}, ("ppo.batch_size", "ppo.minibatches")),
        (
            {"ppo": {"batch_size": 10, "samples_per_prompt": 4}},
            ("ppo.batch_size", "ppo.samples_per_prompt"),
        ),
        ({"ppo": {"advantage": "rloo"}}, ("ppo.advantage", "ppo.samples_per_prompt")),
        (
            {"rollout": {"tensor_parallel_size": 2}},
            ("rollout.tensor_parallel_size", "rollout.engine"),
        ),
        (
            {"rollout": {"stop": ["\n"], "engine": "vllm"}},
            ("rollout.stop", "rollout.engine"),
        ),
        (
            {"rollout": {"engine": "vllm"}, "model": {"peft": {"type": "IA3"}}},
            ("rollout.engine", "model.peft.type"),
        ),
        ({"ppo": {"kl_in": "loss"}}, ("ppo.kl_in", "ppo.kl")),
        ({"ppo": {"kl_coef": 0, "kl_target": 6}}, ("ppo.kl_target", "ppo.kl_coef")),
        ({"data": {"prompts": [{"format": "alpaca"}]}}, ("format: alpaca", "path")),
        ({"data": {"prompts": [{"format": "demo"}]}}, ("format: demo", "rows")),
        ({"data": {"feedback": [{"format": "pandalm"}]}}, ("format: pandalm", "path")),
        ({"data": {"feedback": [{"format": "simulated"}]}}, ("format: simulated", "rows")),
    ],
)
def test_a_combination_that_cannot_work_names_both_keys(
    sections: dict[str, object], keys: tuple[str, str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**sections)
    assert all(key in str(caught.value) for key in keys)


@pytest.mark.parametrize("key", ["top_k", "top_p", "min_new_tokens"])
def test_limits_on_what_is_sampled_in_training_are_one_line_that_says_why(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        default_config("x", [f"rollout.{key}=1"])
    assert str(caught.value) == (
        f"--set rollout.{key}=1: rollout.{key}: PPO would score another distribution than the one "
        f"it sampled from; for held-out prompts set evaluation.{key}"
    )
    assert default_config("x", [f"evaluation.{key}=1", 'rollout.stop=["a"]']).rollout.stop == ("a",)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0, -1.0])
def test_a_learning_rate_is_a_positive_number(value: float) -> None:
    with pytest.raises(ValidationError):
        config(sft={"learning_rate": value})


def test_every_key_says_what_it_means() -> None:
    silent = [
        f"{name}.{field}"
        for name, section in reference.sections("", RunConfig)
        for field, info in section.model_fields.items()
        if info.description is None and section_in(info.annotation) is None
    ]
    assert not silent


def test_the_reference_and_the_schema_are_up_to_date() -> None:
    assert reference.main(["--check"]) == 0, "run `python -m align.pipeline.reference`"


def test_the_reference_gives_type_default_bounds_and_meaning() -> None:
    rows = [line for line in reference.markdown().splitlines() if line.startswith("| `kl_coef`")]
    assert rows == [
        "| `kl_coef` | number | `0.05` | >= 0 | Reward lost per nat of drift from the reference. |"
    ]
