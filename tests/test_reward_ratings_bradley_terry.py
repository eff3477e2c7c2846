"""Bradley-Terry fits: against slow twins, another library, planted strengths, and bad data."""

import tracemalloc
from typing import Any

import choix
import numpy as np
import pytest

from align.reward.ratings import posterior
from align.reward.ratings.battles import Battles, Counts, Floats, Ints, count_battles
from align.reward.ratings.bradley_terry import FALLBACK_PRIOR_SD, NUISANCE_PRIOR_SD, Fit, fit
from align.reward.ratings.outcomes import TieModel, outcome_probabilities
from align.reward.ratings.uncertainty import standard_errors

TIE_MODELS: tuple[TieModel, ...] = ("half_win", "davidson", "rao_kupper")
PLANTED = np.array([-0.8, -0.3, 0.0, 0.4, 0.7])


def battles_of(
    strengths: Floats,
    games: int,
    ties: TieModel = "half_win",
    tie_parameter: float = 0.0,
    gamma: float = 0.0,
    seed: int = 1,
) -> Battles:
    """Every pair plays `games` battles, half of them with the first player shown first."""
    generator = np.random.default_rng(seed)
    i, j = np.triu_indices(len(strengths), 1)
    first, second = np.repeat(i, games), np.repeat(j, games)
    shown = np.tile([1, -1], len(first))[: len(first)]
    difference = strengths[first] - strengths[second] + gamma * shown
    win, tie, _ = outcome_probabilities(ties, difference, tie_parameter)
    draw = generator.random(len(first))
    outcome = np.where(draw < win, 1.0, np.where(draw < win + tie, 0.5, 0.0))
    return Battles(len(strengths), first, second, outcome, shown_first_B=shown)


def votes(players: int, *played: tuple[int, int, float, int]) -> Counts:
    """Counts of (first, second, outcome, how often)."""
    first, second, outcome, times = (np.array(part) for part in zip(*played, strict=True))
    return count_battles(
        Battles(
            players,
            np.repeat(first, times),
            np.repeat(second, times),
            np.repeat(outcome.astype(float), times),
        )
    )


def mm_fit(counts: Counts, rounds: int = 3000) -> Floats:
    """Hunter 2004 (MM algorithms for generalized Bradley-Terry models), eq. 3: p_i <- W_i / sum."""
    players = counts.players
    wins, met = np.zeros(players), np.zeros((players, players))
    for i, j, w, lost, t in zip(
        counts.i_P, counts.j_P, counts.wins_P, counts.losses_P, counts.ties_P, strict=True
    ):
        wins[i] += w + t / 2
        wins[j] += lost + t / 2
        met[i, j] = met[j, i] = w + lost + t
    p = np.ones(players)
    for _ in range(rounds):
        p = wins / (met / (p[:, None] + p)).sum(axis=1)
        p /= np.exp(np.log(p).mean())
    return np.log(p)


def log_posterior(fitted: Fit, theta: Floats) -> float:
    """By definition: one vote outcome after the other, from the probabilities themselves."""
    counts, model = fitted.model.counts, fitted.model
    rest = list(theta[counts.players :])
    gamma = rest.pop(0) if model.position else 0.0
    total = -(gamma**2) / (2 * NUISANCE_PRIOR_SD**2)
    natural = 0.0
    if model.ties != "half_win":
        t = rest.pop(0)
        total -= t**2 / (2 * NUISANCE_PRIOR_SD**2)
        natural = np.exp(t) if model.ties == "davidson" else np.sqrt(1 + np.exp(t))
    if fitted.prior_sd is not None:
        total -= (theta[: counts.players] ** 2).sum() / (2 * fitted.prior_sd**2)
    for row in range(len(counts.i_P)):
        d = theta[counts.i_P[row]] - theta[counts.j_P[row]] + gamma * counts.position_P[row]
        win, tie, loss = outcome_probabilities(model.ties, d, float(natural))
        tied = np.log(win) / 2 + np.log(loss) / 2 if model.ties == "half_win" else np.log(tie)
        total += counts.wins_P[row] * np.log(win) + counts.losses_P[row] * np.log(loss)
        total += counts.ties_P[row] * tied
    return float(total)


def central_difference(fitted: Fit, step: float) -> Floats:
    """The gradient of `log_posterior` at the fit, by finite differences."""
    unit = np.eye(len(fitted.theta_M)) * step
    return np.array(
        [
            log_posterior(fitted, fitted.theta_M + one)
            - log_posterior(fitted, fitted.theta_M - one)
            for one in unit
        ]
    ) / (2 * step)


def test_planted_strengths_are_found_within_their_standard_errors() -> None:
    errors, stated = [], []
    for seed in range(1, 41):
        fitted = fit(count_battles(battles_of(PLANTED, games=200, seed=seed)))
        errors.append(fitted.strengths_N - PLANTED)
        stated.append(standard_errors(fitted))
    assert np.max(stated) == pytest.approx(0.065, abs=0.005)
    assert np.abs(errors).max() < 4 * np.max(stated)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.mean(stated), rel=0.2)


def test_newton_finds_what_the_mm_algorithm_finds() -> None:
    counts = count_battles(battles_of(PLANTED, 200, "davidson", 0.6))
    np.testing.assert_allclose(fit(counts).strengths_N, mm_fit(counts), atol=1e-8)


def test_the_ratings_are_those_of_choix() -> None:
    battles = battles_of(np.random.default_rng(3).normal(0, 1, 12), games=30)
    winner = np.where(battles.outcome_B == 1, battles.first_B, battles.second_B)
    loser = np.where(battles.outcome_B == 1, battles.second_B, battles.first_B)
    data = list(zip(winner.tolist(), loser.tolist(), strict=True))
    expected = choix.ilsr_pairwise(12, data, tol=1e-12)
    np.testing.assert_allclose(fit(count_battles(battles)).strengths_N, expected, atol=1e-6)


@pytest.mark.parametrize("prior_sd", [0.5, 3.0])
def test_the_prior_is_the_ridge_of_choix(prior_sd: float) -> None:
    battles = battles_of(PLANTED, games=20)
    winner = np.where(battles.outcome_B == 1, battles.first_B, battles.second_B)
    loser = np.where(battles.outcome_B == 1, battles.second_B, battles.first_B)
    data = list(zip(winner.tolist(), loser.tolist(), strict=True))
    # choix penalises alpha |s|^2
    expected = choix.opt_pairwise(5, data, alpha=1 / (2 * prior_sd**2), tol=1e-12)
    found = fit(count_battles(battles), prior_sd=prior_sd).strengths_N
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("ties", TIE_MODELS)
@pytest.mark.parametrize("position", [False, True])
@pytest.mark.parametrize("prior_sd", [None, 0.7])
def test_the_fit_is_where_the_plain_likelihood_is_flat_and_highest(
    ties: TieModel, position: bool, prior_sd: float | None
) -> None:
    battles = battles_of(PLANTED, 40, "davidson", 0.8, gamma=0.4)
    fitted = fit(count_battles(battles, by_position=position), ties, position, prior_sd)
    assert np.abs(central_difference(fitted, 1e-4)).max() < 1e-4
    top = log_posterior(fitted, fitted.theta_M)
    for nudge in np.random.default_rng(0).normal(0, 0.1, (5, len(fitted.theta_M))):
        assert log_posterior(fitted, fitted.theta_M + nudge) < top


@pytest.mark.parametrize("ties", TIE_MODELS)
@pytest.mark.parametrize("position", [False, True])
def test_gradient_and_information_are_the_derivatives_of_the_likelihood(
    ties: TieModel, position: bool
) -> None:
    counts = count_battles(battles_of(PLANTED, 10, "davidson", 0.8, gamma=0.4), position)
    model = posterior.Model(counts, ties, position)
    theta = np.random.default_rng(1).normal(0, 0.7, (1, model.parameters))
    precision = np.full_like(theta, 0.3)
    at = posterior.evaluate(model, theta, precision)
    information = posterior.information_matrix(model, at.rows, precision)[0]
    for index, unit in enumerate(np.eye(model.parameters)):
        after = posterior.evaluate(model, theta + 1e-5 * unit, precision)
        before = posterior.evaluate(model, theta - 1e-5 * unit, precision)
        slope = (after.value_R - before.value_R) / 2e-5
        bend = (before.gradient_RM - after.gradient_RM)[0] / 2e-5
        assert at.gradient_RM[0, index] == pytest.approx(slope[0], abs=1e-5)
        np.testing.assert_allclose(information[index], bend, atol=1e-5)


def test_davidson_and_rao_kupper_find_their_planted_parameters() -> None:
    many = battles_of(PLANTED, 4000, "davidson", 0.6)
    davidson = fit(count_battles(many), "davidson")
    assert davidson.tie_parameter == pytest.approx(0.6, abs=0.03)
    np.testing.assert_allclose(davidson.strengths_N, PLANTED - PLANTED.mean(), atol=0.06)
    rao_kupper = fit(count_battles(battles_of(PLANTED, 4000, "rao_kupper", 1.5)), "rao_kupper")
    assert rao_kupper.tie_parameter == pytest.approx(1.5, abs=0.03)
    np.testing.assert_allclose(rao_kupper.strengths_N, PLANTED - PLANTED.mean(), atol=0.06)
    wrong = fit(count_battles(many), "rao_kupper")
    assert wrong.log_likelihood < davidson.log_likelihood - 2


@pytest.mark.parametrize("ties", TIE_MODELS)
def test_what_being_shown_first_is_worth_is_found(ties: TieModel) -> None:
    battles = battles_of(PLANTED, 2000, ties, 1.4, gamma=0.5)
    fitted = fit(count_battles(battles, by_position=True), ties, position=True)
    assert fitted.gamma == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(fitted.strengths_N, PLANTED - PLANTED.mean(), atol=0.08)


def test_uneven_positions_bias_a_fit_that_ignores_them() -> None:
    """The better player always first: without gamma its lead is the position's too."""
    generator = np.random.default_rng(0)
    shown = np.where(generator.random(4000) < 0.9, 1, -1)
    chance = 1 / (1 + np.exp(-(0.5 + 0.8 * shown)))
    outcome = (generator.random(4000) < chance).astype(float)
    first, second = np.zeros(4000, dtype=np.int64), np.ones(4000, dtype=np.int64)
    counts = count_battles(Battles(2, first, second, outcome, shown_first_B=shown), True)
    blind, aware = fit(counts).strengths_N, fit(counts, position=True).strengths_N
    assert blind[0] - blind[1] > 0.9
    assert aware[0] - aware[1] == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("ties", TIE_MODELS)
@pytest.mark.parametrize("largest_matrix", [0, 100])
def test_many_players_get_the_same_ratings_without_elimination(
    ties: TieModel, largest_matrix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    battles = battles_of(np.random.default_rng(0).normal(0, 1, 30), 10, "davidson", 0.5)
    counts = count_battles(battles, by_position=True)
    dense = fit(counts, ties, position=True)
    monkeypatch.setattr(posterior, "ELIMINATE_UP_TO", 0)
    monkeypatch.setattr(posterior, "MATRIX_UP_TO", largest_matrix)
    sparse = fit(counts, ties, position=True)
    np.testing.assert_allclose(sparse.theta_M, dense.theta_M, atol=1e-8)


def test_twenty_thousand_players_need_no_square_of_doubles() -> None:
    generator = np.random.default_rng(0)
    planted = generator.normal(0, 1, 20_000)
    first = np.tile(np.arange(20_000), 32)
    second = (first + generator.integers(1, 20_000, len(first))) % 20_000
    chance = 1 / (1 + np.exp(planted[second] - planted[first]))
    outcome = (generator.random(len(first)) < chance).astype(float)
    tracemalloc.start()
    fitted = fit(count_battles(Battles(20_000, first, second, outcome)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400e6, "20,000 squared doubles are 3,200 MB"
    assert np.isfinite(fitted.strengths_N).all()
    assert np.corrcoef(fitted.strengths_N, planted)[0, 1] > 0.9


def test_the_order_of_battles_and_of_the_two_players_does_not_matter() -> None:
    battles = battles_of(PLANTED, 20, "davidson", 0.5)
    shuffled = np.random.default_rng(0).permutation(len(battles.outcome_B))
    turned = Battles(
        5,
        battles.second_B[shuffled],
        battles.first_B[shuffled],
        1 - battles.outcome_B[shuffled],
    )
    expected = fit(count_battles(battles)).strengths_N
    np.testing.assert_array_equal(fit(count_battles(turned)).strengths_N, expected)


def test_two_cliques_are_flagged_and_each_has_mean_zero() -> None:
    clique = ((0, 1, 1, 3), (1, 0, 1, 1), (1, 2, 1, 2), (2, 0, 1, 1))
    other = tuple((i + 3, j + 3, outcome, times) for i, j, outcome, times in clique)
    fitted = fit(votes(6, *clique, *other))
    assert fitted.connectivity.weak_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert fitted.prior_sd == FALLBACK_PRIOR_SD
    assert fitted.note is not None and "2 groups instead of one" in fitted.note
    assert fitted.strengths_N[:3].sum() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(fitted.strengths_N[:3], fitted.strengths_N[3:])


def test_an_undefeated_player_is_first_and_finite() -> None:
    fitted = fit(votes(3, (0, 1, 1, 5), (0, 2, 1, 5), (1, 2, 1, 3), (2, 1, 1, 2)))
    assert fitted.connectivity.strong_N.tolist() == [0, 1, 1]
    assert fitted.connectivity.weak_N.tolist() == [0, 0, 0]
    assert fitted.note is not None and "2 groups instead of one" in fitted.note
    assert fitted.strengths_N.argmax() == 0 and 1 < fitted.strengths_N[0] < 10


def test_one_loss_is_enough_for_an_estimate_without_prior() -> None:
    fitted = fit(votes(2, (0, 1, 1, 99_999), (1, 0, 1, 1)))
    assert fitted.prior_sd is None and fitted.note is None
    assert fitted.strengths_N[0] * 2 == pytest.approx(np.log(99_999), abs=1e-9)


@pytest.mark.parametrize("ties", TIE_MODELS)
@pytest.mark.parametrize(
    ("players", "played"),
    [
        (1, []),
        (3, []),
        (0, []),
        (2, [(0, 1, 1, 100_000)]),
        (2, [(0, 1, 0.5, 100_000)]),
        (3, [(0, 1, 0.5, 2), (1, 2, 0.5, 1)]),
        (4, [(0, 1, 1, 5), (2, 3, 1, 5)]),
    ],
    ids=["one player", "no battles", "nobody", "one-sided", "ties only", "ties", "two pairs"],
)
def test_the_edges_have_finite_ratings_and_errors(
    ties: TieModel, players: int, played: list[Any]
) -> None:
    empty: Ints = np.empty(0, dtype=np.int64)
    none = count_battles(Battles(players, empty, empty, np.empty(0)))
    fitted = fit(votes(players, *played) if played else none, ties)
    assert fitted.strengths_N.shape == (players,)
    assert np.isfinite(fitted.strengths_N).all()
    assert np.isfinite(standard_errors(fitted)).all()
    assert fitted.tie_parameter is None or np.isfinite(fitted.tie_parameter)
    assert np.isfinite(fitted.log_likelihood)
    if all(outcome == 0.5 for _, _, outcome, _ in played):
        np.testing.assert_allclose(fitted.strengths_N, 0, atol=1e-12)


def test_one_who_always_takes_the_first_has_a_finite_effect_of_position() -> None:
    battles = battles_of(PLANTED, 40)
    assert battles.shown_first_B is not None
    always_first = (battles.shown_first_B > 0).astype(float)
    stubborn = Battles(
        5, battles.first_B, battles.second_B, always_first, shown_first_B=battles.shown_first_B
    )
    fitted = fit(count_battles(stubborn, by_position=True), position=True)
    assert 3 < fitted.gamma < 20
    np.testing.assert_allclose(fitted.strengths_N, 0, atol=1e-9)
