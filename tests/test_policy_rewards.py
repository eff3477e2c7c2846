"""From the reward model's word to the score that PPO learns from."""

import pytest
import torch

from align.policy.rewards import Moments, settled_scores


def scores(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 5 + 3 * torch.randn(count, generator=generator, dtype=torch.float64)


def test_running_moments_equal_those_of_all_scores_at_once() -> None:
    everything, moments = scores(100), Moments()
    for part in everything.split([1, 30, 2, 67]):
        moments = moments.including(part)
    assert moments.count == 100
    assert moments.mean == pytest.approx(float(everything.mean()))
    assert moments.deviation == pytest.approx(float(everything.std(correction=0)))


def test_the_moments_of_scores_far_from_zero_keep_their_digits() -> None:
    """The difference of two large sums of squares would not."""
    far = scores(1000) + 1e8
    moments = Moments().including(far[:500]).including(far[500:])
    assert moments.deviation == pytest.approx(float(far.std(correction=0)), rel=1e-6)


def test_scores_that_are_all_equal_are_not_scaled() -> None:
    assert Moments().deviation == 1
    assert Moments().including(torch.full((4,), 2.0)).deviation == 1


def test_scores_are_scaled_then_clipped_then_charged_for_a_missing_end() -> None:
    raw = torch.tensor([8.0, -8.0, 2.0, 8.0])
    cut = torch.tensor([0.0, 0.0, 1.0, 1.0])
    found = settled_scores(raw, cut, deviation=2.0, clip=3.0, missing_eos_penalty=1.0)
    assert found.tolist() == [3.0, -3.0, 0.0, 2.0]


def test_without_scale_clip_and_penalty_a_score_stays_as_it_is() -> None:
    raw = scores(50).float()
    assert torch.equal(settled_scores(raw, torch.ones(50), 1.0, None, 0.0), raw)
