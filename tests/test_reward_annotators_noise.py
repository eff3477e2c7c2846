"""Noise probabilities: by hand, true on planted votes, and worth having when labels are flipped."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from align.reward.annotators.noise import disagreements, smoothed
from align.reward.annotators.votes import LARGER, SMALLER, votes_of
from align.reward.feedback.truth import noise_of, truth_of
from align.reward.loss import preference_loss


def test_on_planted_votes_noise_is_the_share_of_wrong_winners() -> None:
    rng = np.random.default_rng(1)
    accuracy_A = rng.uniform(0.5, 0.9, 30)
    truth_I, said = rng.choice([SMALLER, LARGER], 4000), []
    for item, truth in enumerate(truth_I):
        for annotator in rng.choice(30, 3, replace=False):
            right = rng.random() < accuracy_A[annotator]
            said.append((f"{item:04}", f"{annotator}", int(truth if right else LARGER - truth)))
    items, annotators, labels = zip(*said, strict=True)
    votes = votes_of(items, annotators, ["human"] * len(said), labels)
    found = truth_of(votes)
    smaller_I = found.smaller_is_better >= 0.5  # the winner by the posterior
    noise_I = noise_of(found, pa.array(votes.items), smaller_I, np.zeros(4000, bool)).to_numpy()
    wrong_I = smaller_I != (truth_I == SMALLER)
    assert ((noise_I >= 0) & (noise_I < 0.5)).all()
    assert noise_I.mean() == pytest.approx(wrong_I.mean(), abs=0.02)
    doubtful_I = noise_I > np.median(noise_I)
    assert wrong_I[doubtful_I].mean() > 2 * wrong_I[~doubtful_I].mean()


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
            target_P = torch.tensor([smoothed(1.0, one) for one in noise.tolist()])
            weight_D = taste_of(chosen_PD, target_P)
            right = (test_XD @ weight_D > 0) == (test_XD @ truth_D > 0)
            found.append(right.float().mean().item())

    assert np.mean(corrected) >= np.mean(plain) + 0.005
    assert np.mean(corrected) > 0.8


def test_pairs_that_a_fresh_model_thinks_wrong_are_listed_worst_first() -> None:
    predicted_P = np.array([0.95, 0.02, 0.5, 0.1, 0.11, 0.0])
    assert disagreements(predicted_P).tolist() == [5, 1, 3]
    assert disagreements(predicted_P, most=0.01).tolist() == [5]
    assert disagreements(np.ones(3)).tolist() == []
