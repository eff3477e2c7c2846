"""What ends PPO: each with one line that names the step, the number and the remedy."""

from collections.abc import Callable

import pytest

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.ppo_guards import (
    check_agreement,
    check_drift,
    check_finite,
    check_first_pass,
)

NAN = float("nan")


def config_with(precision: str = "fp32", **ppo: object) -> RunConfig:
    return RunConfig.model_validate({"name": "x", "train": {"precision": precision}, "ppo": ppo})


def stopped_by(check: Callable[[], None]) -> str:
    with pytest.raises(UserError) as caught:
        check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("gap", [0.01, NAN])
def test_log_probabilities_of_engine_and_trainer_that_drift_apart_stop_the_run(gap: float) -> None:
    check_agreement(1e-4, config_with())
    assert "disagree by" in stopped_by(lambda: check_agreement(gap, config_with()))


@pytest.mark.parametrize("gap", [0.01, NAN])
def test_a_ratio_that_does_not_begin_at_one_stops_the_run(gap: float) -> None:
    check_first_pass(1e-4, config_with(), 6)
    said = stopped_by(lambda: check_first_pass(gap, config_with(), 6))
    assert said.startswith("ppo, step 7") and "dropout" in said


def test_half_precision_may_round() -> None:
    check_agreement(0.01, config_with("bf16"))
    check_first_pass(0.01, config_with("bf16"), 0)


@pytest.mark.parametrize("kl", [10.5, NAN])
def test_drift_past_the_limit_stops_the_run(kl: float) -> None:
    check_drift(1e9, config_with(), 3)
    check_drift(9.5, config_with(kl_limit=10), 3)
    said = stopped_by(lambda: check_drift(kl, config_with(kl_limit=10), 3))
    assert said.startswith("ppo, step 4") and "ppo.kl_limit (10)" in said


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_what_is_no_number_stops_the_run(name: str, value: float) -> None:
    good = {"loss": 0.3, "grad_norm": 1.0}
    check_finite(good, config_with(), 0)
    said = stopped_by(lambda: check_finite(good | {name: value}, config_with(), 0))
    assert said.startswith(f"ppo, step 1: {name} is {value}")


def test_an_infinite_gradient_is_in_order_in_fp16() -> None:
    check_finite({"loss": 0.3, "grad_norm": float("inf")}, config_with("fp16"), 0)
