"""The Elo scale, and ratings that move from battle to battle."""

import numpy as np
import pytest

from align.reward.ratings.battles import Battles
from align.reward.ratings.elo import ELO_PER_NAT, online_elo, to_elo


def season(seed: int = 0) -> Battles:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, 4, 300)
    second = (first + generator.integers(1, 4, 300)) % 4
    return Battles(4, first, second, generator.choice([0.0, 0.5, 1.0], 300))


def test_a_nat_is_173_points() -> None:
    assert pytest.approx(173.7178, abs=1e-4) == ELO_PER_NAT
    strengths = np.array([-1.0, 0.0, 2.5])
    assert to_elo(strengths, 1000.0)[0] == pytest.approx(1000 - 173.7178, abs=1e-4)


def test_the_elo_difference_and_the_strength_difference_give_one_probability() -> None:
    a, b = to_elo(np.array([0.7, -0.2]))
    assert 1 / (1 + 10 ** ((b - a) / 400)) == pytest.approx(1 / (1 + np.exp(-0.9)))


def test_online_elo_of_a_season_played_by_hand() -> None:
    battles = Battles(3, np.array([0, 1, 0]), np.array([1, 2, 2]), np.array([1.0, 0.0, 0.5]))
    # 0 beats 1: 16 points. 2 beats 1 at 984: 32 * 0.47698 = 15.263. 0 (1016) and 2 (1015.263) tie.
    expected = [1016 - 0.034, 984 - 15.263, 1015.263 + 0.034]
    np.testing.assert_allclose(online_elo(battles, k=32, start=1000), expected, atol=2e-3)


def test_online_elo_conserves_the_sum_but_depends_on_the_order() -> None:
    battles = season()
    turned = Battles(4, battles.first_B[::-1], battles.second_B[::-1], battles.outcome_B[::-1])
    forth, back = online_elo(battles), online_elo(turned)
    assert forth.sum() == pytest.approx(4000) and back.sum() == pytest.approx(4000)
    assert np.abs(forth - back).max() > 1
