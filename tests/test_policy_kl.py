"""KL estimators and where rewards land."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from align.policy.kl import adapted_coef, k1, k2, k3, shaped_rewards
from align.policy.loss import kl_loss

Estimator = Callable[[Tensor, Tensor], Tensor]

POLICY = torch.tensor([0.6, 0.3, 0.1])
REFERENCE = torch.tensor([0.2, 0.3, 0.5])
KL = 0.6 * math.log(0.6 / 0.2) + 0.1 * math.log(0.1 / 0.5)


def test_all_estimators_by_hand() -> None:
    policy, reference = POLICY.log()[None], REFERENCE.log()[None]
    assert k2(policy, reference)[0].tolist() == pytest.approx(
        [math.log(3) ** 2 / 2, 0, math.log(5) ** 2 / 2]
    )
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


def test_k2_and_k3_are_never_negative_and_k1_may_be() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 50, 20, generator=generator, dtype=torch.float64)
    assert (k2(policy, reference) >= 0).all() and (k3(policy, reference) >= 0).all()
    assert (k1(policy, reference) < 0).any()
    assert (k2(policy, policy) == 0).all() and (k3(policy, policy) == 0).all()


def test_k2_is_the_divergence_to_second_order() -> None:
    reference = REFERENCE.double().log().log_softmax(0)
    near = (reference + 1e-3 * torch.tensor([1.0, -2.0, 0.5])).log_softmax(0)
    kl, second = ((near.exp() * k(near, reference)).sum() for k in (k1, k2))
    assert float(second) == pytest.approx(float(kl), rel=2e-3)


def expected_gradient(estimator: Estimator, old: Tensor) -> Tensor:
    """Of the KL loss in the logits of POLICY, over all tokens as often as `old` draws them."""
    logits = POLICY.double().log().requires_grad_()
    one = torch.ones(1, 1, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for token in range(3):
        now, before, reference = (
            x[token].reshape(1, 1)
            for x in (logits.log_softmax(0), old.double().log(), REFERENCE.double().log())
        )
        total = total + float(old[token]) * kl_loss(now, before, reference, one, estimator)
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


@pytest.mark.parametrize("old", [POLICY, torch.tensor([0.1, 0.7, 0.2])], ids=["first", "later"])
def test_in_the_loss_k2_pulls_along_the_divergence_k3_along_the_reverse_one_and_k1_nowhere(
    old: Tensor,
) -> None:
    """In the first pass, and in later ones, when another policy drew the tokens."""
    logits = POLICY.double().log().requires_grad_()
    policy, reference = logits.log_softmax(0), REFERENCE.double().log()
    forward = (policy.exp() * (policy - reference)).sum()
    reverse = (reference.exp() * (reference - policy)).sum()
    (along,) = torch.autograd.grad(forward, logits, retain_graph=True)
    (against,) = torch.autograd.grad(reverse, logits)
    assert torch.allclose(expected_gradient(k2, old), along, atol=1e-7)
    assert torch.allclose(expected_gradient(k3, old), against, atol=1e-7)
    assert torch.allclose(expected_gradient(k1, old), torch.zeros(3).double(), atol=1e-7)


def test_the_coefficient_follows_the_target_by_hand() -> None:
    """64 answers at a horizon of 100; the error is cut at a fifth."""
    grow, rest, shrink = (adapted_coef(0.1, kl, 6.0, 64, 100) for kl in (60.0, 6.0, 5.7))
    assert grow == pytest.approx(0.1 * (1 + 0.2 * 0.64))
    assert rest == 0.1
    assert shrink == pytest.approx(0.1 * (1 - 0.05 * 0.64))
    assert adapted_coef(0.1, -1.0, 6.0, 64, 100) == pytest.approx(0.1 * (1 - 0.2 * 0.64))


def test_the_adaptive_coefficient_brings_the_divergence_to_its_target() -> None:
    """A policy whose drift is what the coefficient allows: KL = 1 / coefficient."""
    kl_coef = 0.01
    for _ in range(2000):
        kl_coef = adapted_coef(kl_coef, 1 / kl_coef, 6.0, answers=64, horizon=1000)
    assert 1 / kl_coef == pytest.approx(6.0, rel=1e-3)


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
