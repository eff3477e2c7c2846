"""What PPO adapts from step to step, and that it goes on where it was."""

import json

import pytest
import torch

from align.pipeline.ppo_state import Adapted
from align.policy.config import PPOConfig

ADAPTIVE = PPOConfig(kl_target=6, kl_horizon=100, batch_size=64, scale_scores=True)
CUT = torch.zeros(8)


def scores(step: int) -> torch.Tensor:
    return torch.randn(8, generator=torch.Generator().manual_seed(step))


def steps(adapted: Adapted, first: int, last: int) -> Adapted:
    for step in range(first, last):
        adapted, _ = adapted.settled(scores(step), CUT, ADAPTIVE)
        adapted = adapted.after(4.0 + step, ADAPTIVE)
    return adapted


def test_what_was_saved_goes_on_bit_by_bit() -> None:
    """Through JSON, as in a checkpoint (verl#2653)."""
    begun = Adapted.restored({}, ADAPTIVE)
    stopped = steps(begun, 0, 3)
    again = Adapted.restored(json.loads(json.dumps(stopped.numbers)), ADAPTIVE)
    assert steps(again, 3, 6) == steps(begun, 0, 6)
    assert stopped != begun


def test_scores_are_divided_by_the_deviation_of_all_so_far() -> None:
    adapted = Adapted.restored({}, ADAPTIVE)
    adapted, _ = adapted.settled(scores(0), CUT, ADAPTIVE)
    _, found = adapted.settled(scores(1), CUT, ADAPTIVE)
    everything = torch.cat([scores(0), scores(1)])
    assert torch.allclose(found, scores(1) / everything.std(correction=0))


def test_nothing_adapts_unless_asked_to() -> None:
    plain = PPOConfig(missing_eos_penalty=0)
    begun = Adapted.restored({}, plain)
    adapted, found = begun.settled(scores(0), CUT, plain)
    assert adapted.after(100.0, plain) == begun and torch.equal(found, scores(0))
    assert begun.kl_coef == plain.kl_coef


def test_the_divergence_counts_per_answer_and_the_horizon_in_answers() -> None:
    adapted = Adapted.restored({}, ADAPTIVE).after(6.6, ADAPTIVE)
    assert adapted.kl_coef == pytest.approx(ADAPTIVE.kl_coef * (1 + 0.1 * 64 / 100))
