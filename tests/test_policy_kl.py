"""KL estimators and where rewards land."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from align.policy.kl import k1, k3, shaped_rewards

Estimator = Callable[[Tensor, Tensor], Tensor]

POLICY = torch.tensor([0.6, 0.3, 0.1])
REFERENCE = torch.tensor([0.2, 0.3, 0.5])
KL = 0.6 * math.log(0.6 / 0.2) + 0.1 * math.log(0.1 / 0.5)


def test_both_estimators_by_hand() -> None:
    policy, reference = POLICY.log()[None], REFERENCE.log()[None]
    assert k1(policy, reference)[0].tolist() == pytest.approx([math.log(3), 0, -math.log(5)])
    assert k3(policy, reference)[0].tolist() == pytest.approx(
        [1 / 3 - 1 + math.log(3), 0, 5 - 1 - math.log(5)], abs=1e-6
    )


@pytest.mark.parametrize("estimator", [k1, k3])
def test_an_estimator_has_the_divergence_as_its_expectation(estimator: Estimator) -> None:
    exact = (POLICY * estimator(POLICY.log(), REFERENCE.log())).sum()
    assert float(exact) == pytest.approx(KL, abs=1e-6)


@pytest.mark.parametrize("estimator", [k1, k3])
def test_samples_of_the_policy_average_to_the_divergence(estimator: Estimator) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.multinomial(POLICY, 200_000, replacement=True, generator=generator)
    draws = estimator(POLICY.log()[tokens], REFERENCE.log()[tokens])
    error = float(draws.std()) / math.sqrt(len(draws))
    assert abs(float(draws.mean()) - KL) < 4 * error


def test_k3_is_never_negative_and_k1_may_be() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 50, 20, generator=generator, dtype=torch.float64)
    assert (k3(policy, reference) >= 0).all()
    assert (k1(policy, reference) < 0).any()
    assert (k3(policy, policy) == 0).all()


def test_the_score_lands_on_the_last_token_of_a_full_and_of_a_short_answer() -> None:
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    kl = torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 99.0], [4.0, 99.0, 99.0]])
    rewards = shaped_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, kl_coef=0.5)
    expected = [[-0.05, -0.1, 9.85], [-0.5, 19.0, 0.0], [28.0, 0.0, 0.0]]
    assert torch.allclose(rewards, torch.tensor(expected))


def test_rewards_of_an_answer_sum_to_its_score_less_its_divergence() -> None:
    generator = torch.Generator().manual_seed(1)
    kl = torch.randn(5, 7, generator=generator)
    lengths = torch.tensor([1, 2, 5, 6, 7])
    mask = (torch.arange(7) < lengths[:, None]).float()
    scores = torch.randn(5, generator=generator)
    rewards = shaped_rewards(scores, kl, mask, kl_coef=0.05)
    for row in range(5):
        tokens = kl[row, : lengths[row]].tolist()
        assert float(rewards[row].sum()) == pytest.approx(
            float(scores[row]) - 0.05 * sum(tokens), abs=1e-5
        )
        assert (rewards[row, lengths[row] :] == 0).all()
