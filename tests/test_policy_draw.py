"""Tokens from logits: what may be drawn, and the log-probabilities that come with it."""

import pytest
import torch

from align.policy.draw import draw, filtered

LOGITS_BV = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, -1.0, 0.0, 1.0]])


def test_log_probabilities_are_those_of_the_whole_distribution_whatever_may_be_drawn() -> None:
    noise_B = torch.tensor([0.9, 0.1], dtype=torch.float64)
    for limits in ({}, {"top_k": 2}, {"top_p": 0.5}, {"banned_id": 0}):
        tokens_B, logprobs_B = draw(LOGITS_BV, noise_B, 0.7, **limits)
        expected_BV = (LOGITS_BV / 0.7).log_softmax(-1)
        assert torch.allclose(logprobs_B, expected_BV.gather(1, tokens_B[:, None])[:, 0], atol=1e-6)


def test_the_largest_noise_draws_the_last_possible_token() -> None:
    most = torch.tensor([1 - 2**-53] * 2, dtype=torch.float64)
    assert draw(LOGITS_BV, most, 1.0)[0].tolist() == [3, 3]
    assert draw(LOGITS_BV, most, 1.0, top_k=1)[0].tolist() == [1, 0]
    impossible_BV = torch.tensor([[0.0, 1.0, -1e9, -1e9]])
    assert draw(impossible_BV, most[:1], 1.0)[0].tolist() == [1]


def test_the_least_noise_draws_no_token_without_probability() -> None:
    impossible_BV = torch.tensor([[-1e9, -1e9, 1.0, 0.0]])
    assert draw(impossible_BV, torch.zeros(1, dtype=torch.float64), 1.0)[0].tolist() == [2]


def test_half_precision_logits_are_drawn_from_in_single_precision() -> None:
    noise_B = torch.tensor([0.5, 0.5], dtype=torch.float64)
    tokens_B, logprobs_B = draw(LOGITS_BV.bfloat16(), noise_B, 0.7)
    expected = draw(LOGITS_BV, noise_B, 0.7)  # these logits are exact in bfloat16
    assert tokens_B.tolist() == expected[0].tolist()
    assert logprobs_B.dtype == torch.float32 and torch.equal(logprobs_B, expected[1])


@pytest.mark.parametrize(
    ("top_k", "top_p", "banned_id", "kept"),
    [
        (2, None, None, [0, 1]),
        (None, 0.5, None, [0]),  # exactly half is enough
        (None, 0.51, None, [0, 1]),
        (None, 1.0, None, [0, 1, 2, 3]),
        (3, 0.8, None, [0, 1]),  # of the three that top-k leaves, these two hold 8/9
        (None, 0.5, 0, [1]),
        (1, None, 0, [1]),
    ],
)
def test_limits_apply_to_what_the_one_before_left(
    top_k: int | None, top_p: float | None, banned_id: int | None, kept: list[int]
) -> None:
    weights_BV = torch.tensor([[0.5, 0.3, 0.1, 0.1]])
    found_BV = filtered(weights_BV, top_k, top_p, banned_id)
    assert found_BV.nonzero()[:, 1].tolist() == kept
    assert torch.equal(found_BV[:, kept], weights_BV[:, kept])


def test_top_k_keeps_exactly_k_of_equals() -> None:
    assert filtered(torch.ones(1, 9), 4, None, None).sum() == 4
