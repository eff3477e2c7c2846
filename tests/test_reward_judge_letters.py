"""Letters to options: balanced orders, the average, calibration and the expected reward."""

import math

import numpy as np
import pytest

from align.reward.judge.letters import (
    Floats,
    Places,
    expected_reward,
    letter_mass,
    letter_orders,
    letter_picks,
    option_logprobs,
)


def slow_option_probs(letters_PK: Floats, orders_PK: Places, free_PK: Floats) -> list[float]:
    """The docstring's formula, one number at a time."""
    orders, options = orders_PK.shape
    probs = [0.0] * options
    for p in range(orders):
        weights = [math.exp(letters_PK[p, j] - free_PK[p, j]) for j in range(options)]
        for j in range(options):
            probs[orders_PK[p, j]] += weights[j] / sum(weights) / orders
    return probs


@pytest.mark.parametrize("options", [2, 3, 4])
def test_a_few_options_are_asked_in_every_order(options: int) -> None:
    orders = letter_orders(options, most=24, seed=0)
    assert len({tuple(order) for order in orders}) == len(orders) == math.factorial(options)


@pytest.mark.parametrize(
    ("options", "most"), [(4, 4), (4, 23), (5, 24), (7, 20), (12, 3), (26, 60)]
)
def test_a_part_of_the_orders_gives_every_option_every_letter_equally_often(
    options: int, most: int
) -> None:
    orders = letter_orders(options, most, seed=3)
    assert len(orders) == max(1, most // options) * options
    assert len({tuple(order) for order in orders}) == len(orders)
    for option in range(options):
        counts = (orders == option).sum(axis=0)
        assert (counts == len(orders) // options).all()


def test_the_orders_follow_from_the_seed() -> None:
    assert (letter_orders(6, 12, seed=1) == letter_orders(6, 12, seed=1)).all()
    assert (letter_orders(6, 12, seed=1) != letter_orders(6, 12, seed=2)).any()


@pytest.mark.parametrize(("options", "most"), [(2, 24), (3, 24), (4, 8), (5, 24)])
def test_the_average_agrees_with_a_slow_twin(options: int, most: int) -> None:
    orders = letter_orders(options, most, seed=0)
    chance = np.random.default_rng(0)
    letters_NPK = chance.normal(-3, 2, (5, *orders.shape))
    free_PK = chance.normal(-3, 2, orders.shape)
    plain, calibrated = (
        np.exp(option_logprobs(letters_NPK, orders)),
        np.exp(option_logprobs(letters_NPK, orders, free_PK)),
    )
    for n in range(5):
        assert plain[n] == pytest.approx(
            slow_option_probs(letters_NPK[n], orders, np.zeros(orders.shape))
        )
        assert calibrated[n] == pytest.approx(slow_option_probs(letters_NPK[n], orders, free_PK))
    assert plain.sum(axis=1) == pytest.approx(1)


def test_one_option_of_two_by_hand() -> None:
    # "yes" has letter A in the first order and B in the second.
    letters = np.log([[[0.6, 0.2], [0.3, 0.1]]])
    found = np.exp(option_logprobs(letters, np.array([[0, 1], [1, 0]])))
    assert found == pytest.approx(np.array([[(0.75 + 0.25) / 2, (0.25 + 0.75) / 2]]))


@pytest.mark.parametrize(("options", "most"), [(2, 2), (4, 24), (4, 4), (7, 14)])
def test_a_judge_that_always_says_a_finds_all_options_equally_likely(
    options: int, most: int
) -> None:
    orders = letter_orders(options, most, seed=0)
    always_a = np.full((1, *orders.shape), -40.0)
    always_a[:, :, 0] = -1e-9
    assert np.exp(option_logprobs(always_a, orders)) == pytest.approx(1 / options, abs=1e-6)


def test_calibration_makes_the_content_free_input_uniform() -> None:
    orders = letter_orders(4, 4, seed=0)
    free = np.random.default_rng(1).normal(-5, 3, orders.shape)
    assert np.exp(option_logprobs(free[None], orders, free)) == pytest.approx(0.25, abs=1e-12)
    assert np.exp(option_logprobs(free[None], orders)).std() > 0.01


def test_a_letter_that_is_impossible_leaves_finite_numbers() -> None:
    orders = letter_orders(3, 6, seed=0)
    letters = np.full((1, *orders.shape), -1e4)
    letters[0, np.arange(len(orders)), (orders == 1).argmax(axis=1)] = 0.0
    found = option_logprobs(letters, orders)
    assert np.isfinite(found).all() and found[0, 1] == pytest.approx(0)


def test_the_expected_reward_by_hand() -> None:
    probs, rewards = np.array([0.5, 0.3, 0.2]), np.array([1.0, -1.0, 0.25])
    assert expected_reward(np.log(probs), rewards) == pytest.approx(0.5 - 0.3 + 0.05)


def test_the_letter_mass_is_what_all_letters_have_together() -> None:
    assert letter_mass(np.log([[[0.2, 0.1], [0.4, 0.3]]])) == pytest.approx(0.5)


def test_a_judge_of_options_picks_every_letter_equally_often_and_a_judge_of_letters_one() -> None:
    orders = letter_orders(4, 4, seed=0)
    likes_option_2 = np.where(orders == 2, -0.1, -3.0)[None]
    assert letter_picks(likes_option_2) == [1, 1, 1, 1]
    likes_b = np.tile([-3.0, -0.1, -3.0, -3.0], (2, 4, 1))
    assert letter_picks(likes_b) == [0, 8, 0, 0]
    assert letter_picks(likes_b[:0]) == [0, 0, 0, 0]
