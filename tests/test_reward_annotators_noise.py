"""Noise probabilities: by hand, true on planted votes, and worth having when labels are flipped."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.reward.annotators.dawid_skene import fit
from align.reward.annotators.noise import disagreements, noise_probabilities, vote_quality
from align.reward.annotators.votes import votes_of
from align.reward.loss import preference_loss, unbiased_loss


def test_noise_for_two_labels_is_what_the_winning_label_lacks() -> None:
    posterior_IL = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    assert noise_probabilities(posterior_IL) == pytest.approx([0.1, 0.2, 0.5])


def test_a_tie_is_half_for_each_side() -> None:
    posterior_IL = np.array([[0.6, 0.3, 0.1], [0.3, 0.4, 0.3], [0.1, 0.5, 0.4], [0, 0, 1]])
    assert noise_probabilities(posterior_IL) == pytest.approx([0.25, 0.5, 0.35, 0])


def test_noise_is_below_one_half_for_every_pair_that_has_a_winner() -> None:
    posterior_IL = np.random.default_rng(0).dirichlet([0.3] * 3, 10_000)
    noise_I = noise_probabilities(posterior_IL)
    assert ((noise_I >= 0) & (noise_I < 0.5)).all()


def test_on_planted_votes_noise_is_the_share_of_wrong_winners() -> None:
    rng = np.random.default_rng(1)
    accuracy_A = rng.uniform(0.5, 0.9, 30)
    truth_I, said = rng.integers(2, size=4000), []
    for item, truth in enumerate(truth_I):
        for annotator in rng.choice(30, 3, replace=False):
            right = rng.random() < accuracy_A[annotator]
            said.append((f"{item:04}", f"{annotator}", int(truth if right else 1 - truth)))
    items, annotators, labels = zip(*said, strict=True)
    votes = votes_of(items, annotators, ["human"] * len(said), labels, label_count=2)
    fitted = fit(votes)
    wrong_I = fitted.posterior_IL.argmax(axis=1) != truth_I
    noise_I = noise_probabilities(fitted.posterior_IL)
    assert noise_I.mean() == pytest.approx(wrong_I.mean(), abs=0.02)
    doubtful_I = noise_I > np.median(noise_I)
    assert wrong_I[doubtful_I].mean() > 2 * wrong_I[~doubtful_I].mean()
    quality_N = vote_quality(fitted.posterior_IL, votes)
    right_N = votes.label_N == truth_I[votes.item_N]
    assert quality_N.mean() == pytest.approx(right_N.mean(), abs=0.02)
    assert quality_N[right_N].mean() > quality_N[~right_N].mean() + 0.2


def test_the_quality_of_a_vote_is_the_posterior_of_what_it_says() -> None:
    votes = votes_of(["p", "p", "q"], ["a", "b", "a"], ["human"] * 3, [0, 2, 1])
    posterior_IL = np.array([[0.7, 0.1, 0.2], [0.3, 0.6, 0.1]])
    assert vote_quality(posterior_IL, votes).tolist() == [0.7, 0.2, 0.6]


def test_the_mean_of_the_unbiased_loss_over_flips_is_the_loss_of_the_clean_label() -> None:
    difference_P = torch.tensor([0.7, -1.3, 0.0, 4.0], dtype=torch.float64)
    clean_P = -logsigmoid(difference_P)
    assert clean_P[0].item() == pytest.approx(0.40319, abs=5e-6)
    for noise in (0.0, 0.1, 0.3, 0.49):
        noise_P = torch.full_like(difference_P, noise)
        kept_P = unbiased_loss(difference_P, noise_P)
        flipped_P = unbiased_loss(-difference_P, noise_P)
        assert torch.allclose((1 - noise) * kept_P + noise * flipped_P, clean_P, atol=1e-12)


@pytest.mark.parametrize("noise", [0.5, 0.7, 1.0, -0.1, float("nan")])
def test_a_label_that_says_nothing_or_the_opposite_is_rejected(noise: float) -> None:
    with pytest.raises(ValueError, match=r"below 0\.5"):
        unbiased_loss(torch.zeros(2), torch.tensor([0.1, noise]))


def taste_of(features_PD: Tensor, target_P: Tensor) -> Tensor:
    """The weights of a linear taste that fit the targets best."""
    weight_D = torch.zeros(features_PD.shape[1], requires_grad=True)
    zero_P = torch.zeros(len(features_PD))
    optimiser = torch.optim.LBFGS([weight_D], max_iter=20)

    def closure() -> Tensor:
        optimiser.zero_grad()
        score_P = features_PD @ weight_D
        loss = preference_loss(score_P, zero_P, target_P, zero_P).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weight_D.detach()


def test_with_thirty_percent_of_flips_the_correction_learns_more() -> None:
    """Half of the pairs by people who slip 15 % of the time, half by people who nearly guess."""
    plain: list[float] = []
    corrected: list[float] = []
    for seed in range(4):
        torch.manual_seed(seed)
        truth_D, features_PD = torch.randn(20), torch.randn(600, 20)
        noise_P = torch.where(torch.arange(600) < 300, 0.15, 0.45)
        better_P = (features_PD @ truth_D > 0) ^ (torch.rand(600) < noise_P)
        sign_P = better_P.float() * 2 - 1
        chosen_PD = features_PD * sign_P[:, None]  # turned so that the first was called better
        test_XD = torch.randn(5000, 20)
        for found, noise in ((plain, torch.zeros(600)), (corrected, noise_P)):
            weight_D = taste_of(chosen_PD, 1 - noise)
            right = (test_XD @ weight_D > 0) == (test_XD @ truth_D > 0)
            found.append(right.float().mean().item())

    assert np.mean(corrected) >= np.mean(plain) + 0.005
    assert np.mean(corrected) > 0.8


def test_pairs_that_a_fresh_model_thinks_wrong_are_listed_worst_first() -> None:
    predicted_P = np.array([0.95, 0.02, 0.5, 0.1, 0.11, 0.0])
    assert disagreements(predicted_P).tolist() == [5, 1, 3]
    assert disagreements(predicted_P, most=0.01).tolist() == [5]
    assert disagreements(np.ones(3)).tolist() == []
