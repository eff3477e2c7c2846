"""Standard errors and bootstrap intervals."""

from dataclasses import replace

import numpy as np
import pytest

from align.reward.ratings import bootstrap as bootstrap_module
from align.reward.ratings import posterior, uncertainty
from align.reward.ratings.battles import Battles, Counts, Floats, Ints, count_battles
from align.reward.ratings.bootstrap import bootstrap
from align.reward.ratings.bradley_terry import FALLBACK_PRIOR_SD, fit
from align.reward.ratings.outcomes import TieModel
from align.reward.ratings.uncertainty import covariance, difference_errors, standard_errors

PLANTED = np.array([-0.8, -0.3, 0.0, 0.4, 0.7])


def votes_of_annotators(
    annotators: int, votes_each: int, taste_sd: float, seed: int = 0
) -> Battles:
    """Each annotator adds a taste of its own to the planted strengths, in all its votes."""
    generator = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(annotators), votes_each)
    taste = generator.normal(0, taste_sd, (annotators, len(PLANTED)))
    strengths = PLANTED + taste
    first = generator.integers(0, 5, len(cluster))
    second = (first + generator.integers(1, 5, len(cluster))) % 5
    chance = 1 / (1 + np.exp(strengths[cluster, second] - strengths[cluster, first]))
    outcome = (generator.random(len(cluster)) < chance).astype(float)
    return Battles(5, first, second, outcome, cluster_B=cluster)


def pairs(players: int, *rows: tuple[int, int, int, int]) -> Counts:
    """Counts of (i, j, wins, losses)."""
    table = np.array(rows).reshape(-1, 4)
    zero = np.zeros(len(table))
    wins, losses = table[:, 2].astype(float), table[:, 3].astype(float)
    return Counts(players, table[:, 0], table[:, 1], zero, wins, losses, zero)


def test_the_covariance_is_the_pseudo_inverse_of_the_information() -> None:
    counts = count_battles(votes_of_annotators(10, 80, 0))
    fitted = fit(counts)
    information = np.zeros((5, 5))
    for i, j, battles in zip(counts.i_P, counts.j_P, counts.battles_P, strict=True):
        p = 1 / (1 + np.exp(fitted.strengths_N[j] - fitted.strengths_N[i]))
        edge = np.eye(5)[i] - np.eye(5)[j]
        information += battles * p * (1 - p) * np.outer(edge, edge)
    cov = covariance(fitted)
    np.testing.assert_allclose(cov, np.linalg.pinv(information), atol=1e-12)
    np.testing.assert_allclose(cov.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(standard_errors(fitted), np.sqrt(np.diag(cov)))
    i, j = np.triu_indices(5, 1)
    expected = [np.sqrt(cov[a, a] + cov[b, b] - 2 * cov[a, b]) for a, b in zip(i, j, strict=True)]
    np.testing.assert_allclose(difference_errors(fitted, i, j), expected)


def test_two_players_have_the_error_of_a_log_odds() -> None:
    fitted = fit(pairs(2, (0, 1, 30, 10)))
    by_hand = np.sqrt(1 / 30 + 1 / 10)
    found = difference_errors(fitted, np.array([0]), np.array([1]))
    assert found.item() == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("ties", ["half_win", "davidson", "rao_kupper"])
@pytest.mark.parametrize("linked", [True, False])
def test_errors_without_a_matrix_are_the_same(
    ties: TieModel, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    battles = votes_of_annotators(5, 40, 0)
    outcome = np.where(np.arange(200) % 3 == 0, 0.5, battles.outcome_B)
    players = 5 if linked else 8  # the last three are linked with nobody
    counts = count_battles(replace(battles, players=players, outcome_B=outcome))
    fitted = fit(counts, ties)
    assert (fitted.prior_sd is None) == linked
    i, j = np.triu_indices(players, 1)
    dense = standard_errors(fitted), difference_errors(fitted, i, j)
    monkeypatch.setattr(uncertainty, "MATRIX_UP_TO", 0)
    monkeypatch.setattr(posterior, "MATRIX_UP_TO", 0)
    monkeypatch.setattr(uncertainty, "CHUNK", 100)
    np.testing.assert_allclose(standard_errors(fitted), dense[0], rtol=1e-7)
    np.testing.assert_allclose(difference_errors(fitted, i, j), dense[1], rtol=1e-7)


def test_who_never_played_is_as_unsure_as_the_prior() -> None:
    errors = standard_errors(fit(pairs(4, (0, 1, 3, 2), (1, 2, 2, 2))))
    assert errors[3] == pytest.approx(FALLBACK_PRIOR_SD)
    assert (errors[:3] < 1.5).all()


def test_position_costs_certainty_where_it_is_confounded() -> None:
    battles = votes_of_annotators(10, 80, 0)
    shown = np.where(battles.first_B > battles.second_B, 1, -1)
    shown[::10] *= -1
    counts = count_battles(replace(battles, shown_first_B=shown), by_position=True)
    aware, blind = fit(counts, position=True), fit(counts)
    assert (standard_errors(aware)[[0, 4]] > 1.2 * standard_errors(blind)[[0, 4]]).all()


def test_bootstrap_and_information_agree_on_independent_votes() -> None:
    battles = votes_of_annotators(1000, 1, 0)
    for drawn in (battles, replace(battles, cluster_B=None)):
        fitted = fit(count_battles(drawn))
        spread = bootstrap(drawn, fitted, 400).strengths_RN.std(axis=0)
        np.testing.assert_allclose(spread, standard_errors(fitted), rtol=0.2)


def test_bootstrap_intervals_cover_the_planted_strengths() -> None:
    covered: list[Floats] = []
    for seed in range(20):
        battles = votes_of_annotators(40, 20, taste_sd=0.5, seed=seed)
        low, high = bootstrap(battles, fit(count_battles(battles)), 200, seed).interval()
        centred = PLANTED - PLANTED.mean()
        covered.append((low <= centred) & (centred <= high))
    assert 0.85 <= np.mean(covered) <= 0.99


def test_intervals_are_wider_when_votes_are_clustered_by_annotator() -> None:
    battles = votes_of_annotators(25, 80, taste_sd=1.0)
    fitted = fit(count_battles(battles))
    low, high = bootstrap(battles, fitted, 300).interval()
    plain_low, plain_high = bootstrap(replace(battles, cluster_B=None), fitted, 300).interval()
    assert ((high - low) > 1.5 * (plain_high - plain_low)).all()


def test_refits_side_by_side_are_refits_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is the fit to the votes of the annotators that its generator drew."""
    battles = votes_of_annotators(12, 30, 0.5)
    fitted = fit(count_battles(battles), "davidson")
    together = bootstrap(battles, fitted, 6, seed=5).strengths_RN
    monkeypatch.setattr(bootstrap_module, "CHUNK", 1)
    np.testing.assert_allclose(bootstrap(battles, fitted, 6, seed=5).strengths_RN, together)

    times = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), 6)
    assert battles.cluster_B is not None
    for row, times_C in zip(together, times, strict=True):
        chosen: Ints = np.repeat(np.arange(len(battles.outcome_B)), times_C[battles.cluster_B])
        drawn = Battles(
            5, battles.first_B[chosen], battles.second_B[chosen], battles.outcome_B[chosen]
        )
        expected = fit(count_battles(drawn), "davidson").strengths_N
        np.testing.assert_allclose(row, expected, atol=1e-8)


def test_a_seed_gives_the_same_bootstrap_again() -> None:
    battles = votes_of_annotators(8, 20, 0.5)
    fitted = fit(count_battles(battles))
    once, again = bootstrap(battles, fitted, 10, seed=1), bootstrap(battles, fitted, 10, seed=1)
    other = bootstrap(battles, fitted, 10, seed=2)
    np.testing.assert_array_equal(once.strengths_RN, again.strengths_RN)
    assert (once.strengths_RN != other.strengths_RN).any()


def test_resamples_without_an_estimate_get_the_prior_and_are_counted() -> None:
    """Player 1 has one win: resamples without that vote leave player 0 undefeated."""
    zero, one = np.zeros(20, dtype=np.int64), np.ones(20, dtype=np.int64)
    battles = Battles(2, zero, one, np.array([0.0] + [1.0] * 19))
    drawn = bootstrap(battles, fit(count_battles(battles)), 200)
    assert np.isfinite(drawn.strengths_RN).all()
    assert drawn.with_prior == pytest.approx(200 * (19 / 20) ** 20, abs=35)


@pytest.mark.parametrize("clustered", [False, True])
def test_nothing_to_resample_is_no_error(clustered: bool) -> None:
    none: Ints = np.empty(0, dtype=np.int64)
    battles = Battles(3, none, none, np.empty(0), none if clustered else None)
    low, high = bootstrap(battles, fit(count_battles(battles)), 5).interval()
    assert low.tolist() == high.tolist() == [0, 0, 0]


def test_resamples_of_many_players_need_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    battles = votes_of_annotators(12, 30, 0.5)
    fitted = fit(count_battles(battles))
    dense = bootstrap(battles, fitted, 4).strengths_RN
    monkeypatch.setattr(posterior, "ELIMINATE_UP_TO", 0)
    monkeypatch.setattr(posterior, "MATRIX_UP_TO", 0)
    np.testing.assert_allclose(bootstrap(battles, fitted, 4).strengths_RN, dense, atol=1e-8)
