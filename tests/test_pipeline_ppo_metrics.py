"""What a PPO step reports, against loops over single tokens."""

import math

import pytest
import torch
from torch import Tensor

from align.pipeline.ppo_metrics import (
    Updates,
    answer_metrics,
    distinct2,
    explained_variance,
    measured_peak,
    objective_metrics,
    step_flops,
)
from align.policy.config import PPOConfig
from align.policy.kl import shaped_rewards
from align.policy.loss import policy_loss, value_loss

pytestmark = pytest.mark.usefixtures("one_rank")

LENGTHS = [3, 1, 4]
MASK = (torch.arange(4) < torch.tensor(LENGTHS)[:, None]).float()


def draws(count: int) -> Tensor:
    return torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(0))


def tokens(x_BT: Tensor) -> list[float]:
    """The real tokens of all answers."""
    return [float(x_BT[row, t]) for row, n in enumerate(LENGTHS) for t in range(n)]


def test_answer_metrics_by_hand() -> None:
    found = answer_metrics([[1, 2, 1, 2], [1, 2]], [True, False])
    # Pairs: 12, 21, 12, 12.
    assert found == {"answer/length": 3, "answer/eos_rate": 0.5, "answer/distinct2": 0.5}


def test_answers_without_pairs_have_no_diversity() -> None:
    assert distinct2([[1], [2]]) == 0
    assert distinct2([[1, 2, 3]]) == 1


def test_the_divergence_is_summed_over_tokens_and_averaged_over_answers() -> None:
    logprobs, reference, entropy = draws(3)
    scores = torch.tensor([1.0, 2.0, 6.0])
    rewards = shaped_rewards(scores, logprobs - reference, MASK, kl_coef=0.1)
    found = objective_metrics(scores, rewards, logprobs, reference, entropy, MASK)
    kl = sum(tokens(logprobs - reference)) / 3
    assert found["objective/kl"] == pytest.approx(kl, abs=1e-6)
    assert found["objective/scores"] == 3
    assert found["objective/non_score_reward"] == pytest.approx(-0.1 * kl, abs=1e-6)
    assert found["objective/rlhf_reward"] == pytest.approx(3 - 0.1 * kl, abs=1e-6)
    assert found["objective/entropy"] == pytest.approx(sum(tokens(entropy)) / 8, abs=1e-6)


def test_the_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one() -> None:
    (returns,) = draws(1)
    assert explained_variance(returns, returns, MASK) == pytest.approx(1)
    assert explained_variance(torch.full_like(returns, 5.0), returns, MASK) == pytest.approx(
        0, abs=1e-6
    )
    dirty = returns + 100 * (1 - MASK)
    assert explained_variance(dirty, returns, MASK) == pytest.approx(1)


def test_updates_average_over_the_tokens_of_all_micro_batches() -> None:
    new, old, advantages, values, old_values, returns = draws(6)
    new, old = 0.3 * new, 0.3 * old
    seen = Updates(PPOConfig())
    for rows in ([0, 2], [1]):
        mask = MASK[rows]
        policy = policy_loss(new[rows], old[rows], advantages[rows], mask, 0.2)
        value = value_loss(values[rows], old_values[rows], returns[rows], mask, 0.2)
        part = Updates(PPOConfig())
        part.add_policy(policy, torch.tensor(float(len(rows))), new[rows], old[rows], mask)
        part.add_value(value)
        seen.include(part)
    found = seen.metrics()
    whole = policy_loss(new, old, advantages, MASK, 0.2)
    whole_value = value_loss(values, old_values, returns, MASK, 0.2)
    differences = tokens(new - old)
    expected = {
        "loss": float(whole.loss + whole_value.loss + 3) / 8,
        "loss/policy": float(whole.loss) / 8,
        "loss/value": float(whole_value.loss) / 8,
        "policy/clipfrac": float(whole.clipped) / 8,
        "val/clipfrac": float(whole_value.clipped) / 8,
        "policy/approxkl": sum(math.exp(d) - 1 - d for d in differences) / 8,
        "val/ratio": sum(math.exp(d) for d in differences) / 8,
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_in_the_first_pass_the_ratio_is_one() -> None:
    logprobs, advantages = draws(2)
    seen = Updates(PPOConfig())
    policy = policy_loss(logprobs, logprobs, advantages, MASK, 0.2)
    seen.add_policy(policy, torch.zeros(()), logprobs, logprobs, MASK)
    found = seen.metrics()
    assert (found["val/ratio"], found["policy/approxkl"], found["policy/clipfrac"]) == (1, 0, 0)


def test_operations_grow_with_parameters_tokens_and_passes() -> None:
    def flops(epochs: int, trained: int, mixed_in: int = 0, *, adapters: bool = False) -> float:
        return step_flops(10, 100, mixed_in, epochs, trained, adapters=adapters)

    assert flops(epochs=1, trained=2) == 10 * 100 * (10 + 12)
    assert flops(epochs=4, trained=2) == 10 * 100 * (10 + 48)
    assert flops(epochs=4, trained=1) == 10 * 100 * (8 + 24)
    assert flops(epochs=4, trained=1, mixed_in=7) - flops(epochs=4, trained=1) == 10 * 7 * 6
    assert flops(epochs=4, trained=2, mixed_in=7, adapters=True) == 10 * (100 * (10 + 32) + 7 * 4)


def test_the_measured_peak_is_a_rate() -> None:
    assert 1e6 < measured_peak(torch.device("cpu")) < 1e18
