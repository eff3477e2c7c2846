"""The probabilities of win, tie and loss."""

import numpy as np
import pytest

from align.reward.ratings.outcomes import TieModel, outcome_probabilities

MODELS: list[tuple[TieModel, float]] = [
    ("half_win", 0.0),
    ("davidson", 0.0),
    ("davidson", 0.7),
    ("rao_kupper", 1.0),
    ("rao_kupper", 1.8),
]


@pytest.mark.parametrize(("ties", "parameter"), MODELS)
def test_probabilities_sum_to_one_even_for_hopeless_differences(
    ties: TieModel, parameter: float
) -> None:
    difference = np.array([-800.0, -30.0, -1.0, 0.0, 0.3, 5.0, 800.0])
    win, tie, loss = outcome_probabilities(ties, difference, parameter)
    np.testing.assert_allclose(win + tie + loss, 1, atol=1e-12)
    assert (np.stack([win, tie, loss]) >= 0).all()
    turned = outcome_probabilities(ties, -difference, parameter)
    np.testing.assert_allclose(turned, (loss, tie, win))


def test_davidson_is_the_formula_of_the_paper() -> None:
    p_i, p_j, nu = 2.0, 0.5, 0.7
    total = p_i + p_j + nu * np.sqrt(p_i * p_j)
    found = outcome_probabilities("davidson", np.log(p_i / p_j), nu)
    np.testing.assert_allclose(found, (p_i / total, nu * np.sqrt(p_i * p_j) / total, p_j / total))


def test_rao_kupper_is_the_formula_of_the_paper() -> None:
    p_i, p_j, theta = 2.0, 0.5, 1.6
    win, loss = p_i / (p_i + theta * p_j), p_j / (theta * p_i + p_j)
    tie = (theta**2 - 1) * p_i * p_j / ((p_i + theta * p_j) * (theta * p_i + p_j))
    found = outcome_probabilities("rao_kupper", np.log(p_i / p_j), theta)
    np.testing.assert_allclose(found, (win, tie, loss))


@pytest.mark.parametrize(("ties", "neutral"), [("davidson", 0.0), ("rao_kupper", 1.0)])
def test_a_model_that_forbids_ties_is_bradley_and_terry(ties: TieModel, neutral: float) -> None:
    win, tie, loss = outcome_probabilities(ties, np.array([0.9]), neutral)
    assert win[0] == pytest.approx(1 / (1 + np.exp(-0.9)))
    assert tie[0] == 0 and loss[0] == pytest.approx(1 - win[0])
