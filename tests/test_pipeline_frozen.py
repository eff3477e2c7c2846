"""Which settings may change when a run goes on."""

from typing import Any

import pytest

from align.data.config import Section
from align.data.messages import sha256_of
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.frozen import (
    MAY_CHANGE,
    READ_BY,
    changed_settings,
    frozen_settings,
    is_frozen,
)


def config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate({"name": "x", **sections})


def test_every_section_says_whose_result_it_shapes() -> None:
    assert {key.partition(".")[0] for key in READ_BY} == RunConfig.model_fields.keys()
    assert {stage for stages in READ_BY.values() for stage in stages} == set(STAGES)


def test_every_setting_that_may_change_exists() -> None:
    known = {
        f"{name}.{key}"
        for name, section in config()
        if isinstance(section, Section)
        for key in type(section).model_fields
    }
    assert known >= MAY_CHANGE


def test_a_change_is_named_with_both_values() -> None:
    before, now = config(), config(ppo={"kl_coef": 0.2}, cluster={"address": "auto"})
    assert changed_settings(before, now) == {
        "ppo.kl_coef": (0.05, 0.2),
        "cluster.address": ("local", "auto"),
    }


@pytest.mark.parametrize(
    ("key", "begun", "frozen"),
    [
        ("ppo.kl_coef", ("sft", "rm"), False),
        ("ppo.kl_coef", ("sft", "rm", "ppo"), True),
        ("ppo.steps", ("sft", "rm", "ppo"), False),
        ("seed", ("sft",), True),
        ("seed", (), False),
        ("train.zero_stage", ("sft",), False),
        ("train.precision", ("sft",), True),
        ("cluster.address", STAGES, False),
        ("name", STAGES, False),
        ("data.feedback", ("sft",), False),
        ("data.feedback", ("sft", "rm"), True),
        ("data.held_out", ("sft",), True),
    ],
)
def test_a_stage_that_has_begun_keeps_what_shapes_its_result(
    key: str, begun: tuple[str, ...], frozen: bool
) -> None:
    assert is_frozen(key, begun) is frozen


def test_the_hash_of_a_stage_is_that_of_what_it_reads() -> None:
    def hashes(**sections: Any) -> list[str]:
        return [sha256_of(frozen_settings(config(**sections), stage)) for stage in STAGES]

    plain = hashes()
    assert hashes(ppo={"kl_coef": 0.2})[:2] == plain[:2]
    assert hashes(ppo={"kl_coef": 0.2})[2] != plain[2]
    assert hashes(train={"ranks": 2, "zero_stage": 3}, name="y", ppo={"steps": 7}) == plain
    assert not set(hashes(seed=2)) & set(plain)
    assert not set(hashes(model={"lora": {"r": 4}})) & set(plain)
