"""Bradley-Terry ratings: how strong each player is, from all battles at once, in any order.

P(i beats j) = sigma(s_i - s_j + gamma), gamma for being shown first (Bradley and Terry 1952); ties
as `outcomes` says. Strengths s are natural logarithms of odds and sum to 0 over players linked by
battles. Fitted by Newton's method on the counts. The maximum likelihood estimate exists only if
wins lead from every player to every other (Ford 1957); if not, strengths get a prior
N(0, prior_sd^2), under which everything is finite, and the fit says so.

Shapes: N players, P rows of counts, R resamples, M parameters (see `posterior`).
"""

from dataclasses import dataclass

import numpy as np

from align.reward.ratings.battles import Counts, Floats
from align.reward.ratings.connectivity import Connectivity, connectivity
from align.reward.ratings.outcomes import TieModel
from align.reward.ratings.posterior import (
    Model,
    Posterior,
    evaluate,
    newton_step,
    split,
)

FALLBACK_PRIOR_SD = 2.5  # nats; weakly informative for log-odds, after Gelman et al. 2008
NUISANCE_PRIOR_SD = 10.0
"""Prior of gamma and the tie parameter, worth a twenty-fifth of a battle. Keeps them finite where
data alone would not: only ties, no ties, or an annotator who always takes the first."""
STEP = 1e-6
"""Nats. A step this long changes the weights p (1 - p) by a millionth, and so what Newton's method
leaves to do is a millionth of a step: the error is of the order of 1e-12."""
MAX_STEPS = 200


@dataclass(frozen=True)
class Fit:
    """Fitted strengths and all that is needed to say how sure they are."""

    strengths_N: Floats
    """Nats; the mean over the players of one `connectivity.weak_N` is 0."""
    gamma: float
    """What being shown first is worth, in nats; 0 if not fitted."""
    tie_parameter: float | None
    """nu of Davidson, theta of Rao and Kupper; None with `half_win`."""
    prior_sd: float | None
    """None: the maximum likelihood estimate. Otherwise the standard deviation of the prior."""
    note: str | None
    """One line on why there is a prior that nobody asked for."""
    connectivity: Connectivity
    log_likelihood: float
    model: Model
    theta_M: Floats

    @property
    def precision_1M(self) -> Floats:
        """What the priors add to the diagonal of the information."""
        return prior_precision(self.model, np.array([self.prior_sd or np.inf]))


def fit(
    counts: Counts,
    ties: TieModel = "half_win",
    position: bool = False,
    prior_sd: float | None = None,
) -> Fit:
    """The maximum likelihood estimate if it exists, or the mode under the prior s ~ N(0, sd^2).

    `position` fits gamma, from counts that were taken by position. A `prior_sd` is used in any
    case; without one, `FALLBACK_PRIOR_SD` is used where there is no estimate otherwise.
    """
    model = Model(counts, ties, position)
    linked = connectivity(counts)
    note = None
    if prior_sd is None and not linked.estimate_exists:
        prior_sd, note = FALLBACK_PRIOR_SD, _why_prior(linked, FALLBACK_PRIOR_SD)
    precision_1M = prior_precision(model, np.array([prior_sd or np.inf]))
    at = maximise(model, precision_1M, _first_guess(model))
    theta_M = at.theta_RM[0]
    _, gamma_R1, tie_R1 = split(model, at.theta_RM)
    return Fit(
        strengths_N=_centred(theta_M[: counts.players], linked),
        gamma=gamma_R1.item(),
        tie_parameter=_natural_tie_parameter(ties, tie_R1.item()),
        prior_sd=prior_sd,
        note=note,
        connectivity=linked,
        log_likelihood=float(at.rows.value.sum()),
        model=model,
        theta_M=theta_M,
    )


def maximise(model: Model, precision_RM: Floats, start_RM: Floats) -> Posterior:
    """Newton's method with halved steps, on all resamples at once.

    The log-posterior is concave, so that whatever it finds is the maximum.
    """
    at = evaluate(model, start_RM, precision_RM)
    for _ in range(MAX_STEPS):
        step_RM = newton_step(model, at, precision_RM)
        at = _climb(model, at, step_RM, precision_RM)
        if np.abs(step_RM).max(initial=0) <= STEP:
            return at
    raise ArithmeticError(f"Bradley-Terry fit: no convergence in {MAX_STEPS} Newton steps")


def prior_precision(model: Model, prior_sd_R: Floats) -> Floats:
    """1 / sd^2 of each parameter's prior; an infinite sd is no prior. Shape (R, M)."""
    precision_RM = np.full((len(prior_sd_R), model.parameters), NUISANCE_PRIOR_SD**-2.0)
    precision_RM[:, : model.counts.players] = prior_sd_R[:, None] ** -2.0
    return precision_RM


def _first_guess(model: Model) -> Floats:
    """The log-odds of each player's score, as if all opponents were alike. Shape (1, M)."""
    counts, players = model.counts, model.counts.players
    score_P = counts.wins_P + counts.ties_P / 2
    score_N = np.bincount(counts.i_P, score_P, minlength=players)
    score_N += np.bincount(counts.j_P, counts.battles_P - score_P, minlength=players)
    battles_N = np.bincount(counts.i_P, counts.battles_P, minlength=players)
    battles_N += np.bincount(counts.j_P, counts.battles_P, minlength=players)
    guess_1M = np.zeros((1, model.parameters))
    guess_1M[0, :players] = np.log((score_N + 0.5) / (battles_N - score_N + 0.5))
    guess_1M[0, :players] -= guess_1M[0, :players].mean() if players else 0.0
    return guess_1M


def _climb(model: Model, at: Posterior, step_RM: Floats, precision_RM: Floats) -> Posterior:
    """As far along the step as the log-posterior does not fall."""
    length_R1 = np.ones((len(step_RM), 1))
    votes = model.counts.battles_P.sum(axis=-1)
    rounding_R = 1e-13 * (1 + np.abs(at.value_R) + votes)
    while True:
        reached = evaluate(model, at.theta_RM + length_R1 * step_RM, precision_RM)
        falls_R = reached.value_R < at.value_R - rounding_R
        if not falls_R.any():
            return reached
        length_R1[falls_R] /= 2


def _centred(strengths_N: Floats, linked: Connectivity) -> Floats:
    """Exactly the gauge: the mean of each linked group is 0."""
    group_N = linked.weak_N
    mean = np.bincount(group_N, strengths_N) / np.maximum(np.bincount(group_N), 1)
    return strengths_N - mean[group_N]


def _natural_tie_parameter(ties: TieModel, t: float) -> float | None:
    """nu = exp(t) of Davidson, theta = sqrt(1 + exp(t)) of Rao and Kupper."""
    if ties == "half_win":
        return None
    return float(np.exp(t) if ties == "davidson" else np.sqrt(1 + np.exp(t)))


def _why_prior(linked: Connectivity, prior_sd: float) -> str:
    strong = int(linked.strong_N.max()) + 1
    return (
        f"no maximum likelihood estimate exists: wins link the players into {strong} groups "
        f"instead of one; strengths have the prior N(0, {prior_sd}^2)"
    )
