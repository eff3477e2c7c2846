"""How sure fitted strengths are, from the curvature of the likelihood at its maximum.

Cov(s) is the pseudo-inverse of the information H = sum n_ij p (1 - p) (e_i - e_j)(e_i - e_j)^T:
strengths are known up to a common shift, and the gauge in which they sum to 0 over linked players
has no variance along it. Where gamma or a tie parameter is fitted, it is integrated out; under a
prior its precision is part of H. Independent votes are taken for granted: see `bootstrap`.

Source: standard asymptotics of maximum likelihood; for the gauge, Firth and de Menezes 2004,
"Quasi-variances". Half a win for a tie overstates the variance of a tie, so errors are then too
large rather than too small.

Shapes: N players, M parameters (see `posterior`), Q contrasts: differences, or single strengths.
"""

import numpy as np

from align.reward.ratings.battles import Floats, Ints
from align.reward.ratings.bradley_terry import Fit
from align.reward.ratings.outcomes import RowDerivatives
from align.reward.ratings.posterior import (
    MATRIX_UP_TO,
    conjugate_gradients,
    evaluate,
    information_matrix,
)

CHUNK = 2**22  # doubles held at once for each array


def covariance(fit: Fit) -> Floats:
    """Cov(s), shape (N, N). Past some thousand players ask for the differences you need."""
    players = fit.model.counts.players
    information_MM = information_matrix(fit.model, _curvature(fit), fit.precision_1M)[0]
    gauge_NN = _gauge(fit, np.arange(players))
    # Without a prior H is singular along the gauge. Any stiffness there makes it regular, and shows
    # up in the inverse as a known term.
    stiffness = max(float(np.trace(information_MM)) / max(players, 1), 1e-300)
    information_MM[:players, :players] += stiffness * gauge_NN
    covariance_NN = np.linalg.inv(information_MM)[:players, :players]
    precision = fit.precision_1M[0, 0] if players else 0.0
    return covariance_NN - gauge_NN / (stiffness + precision)


def standard_errors(fit: Fit) -> Floats:
    """The standard error of each strength, in nats. Shape (N,).

    Who never played has that of the prior.
    """
    players = fit.model.counts.players
    if players <= MATRIX_UP_TO:
        return np.sqrt(np.maximum(np.diagonal(covariance(fit)), 0))
    return _contrast_errors(fit, np.arange(players))


def difference_errors(fit: Fit, i_Q: Ints, j_Q: Ints) -> Floats:
    """The standard error of s_i - s_j, in nats. Shape (Q,).

    Only for players of one `connectivity.weak_N` does the difference mean anything.
    """
    if fit.model.counts.players > MATRIX_UP_TO:
        return _contrast_errors(fit, i_Q, j_Q)
    cov_NN = covariance(fit)
    return np.sqrt(np.maximum(cov_NN[i_Q, i_Q] + cov_NN[j_Q, j_Q] - 2 * cov_NN[i_Q, j_Q], 0))


def _curvature(fit: Fit) -> RowDerivatives:
    return evaluate(fit.model, fit.theta_M[None, :], fit.precision_1M).rows


def _gauge(fit: Fit, players_Q: Ints) -> Floats:
    """Rows of the projection on what the gauge fixes: the mean of each linked group. Shape (Q, N).

    Under a prior, who never played is not fixed by the gauge: nothing is known but the prior.
    """
    group_N = fit.connectivity.weak_N
    size_Q = np.bincount(group_N)[group_N[players_Q]]
    fixed_Q = (size_Q > 1) | (fit.prior_sd is None)
    same_QN = group_N[players_Q][:, None] == group_N
    gauge_QN: Floats = same_QN * (fixed_Q / size_Q)[:, None]
    return gauge_QN


def _contrast_errors(fit: Fit, i_Q: Ints, j_Q: Ints | None = None) -> Floats:
    """The standard errors of s_i, or of s_i - s_j, by one linear system each. Shape (Q,)."""
    rows, parameters = _curvature(fit), fit.model.parameters
    variance_Q = np.empty(len(i_Q))
    width = max(CHUNK // (parameters + len(fit.model.counts.i_P)), 1)
    for start in range(0, len(i_Q), width):
        part = slice(start, start + width)
        contrast_QM = _centred_units(fit, i_Q[part])
        if j_Q is not None:
            contrast_QM -= _centred_units(fit, j_Q[part])
        solved_QM = conjugate_gradients(fit.model, rows, fit.precision_1M, contrast_QM)
        variance_Q[part] = (contrast_QM * solved_QM).sum(axis=1)
    return np.sqrt(np.maximum(variance_Q, 0))


def _centred_units(fit: Fit, players_Q: Ints) -> Floats:
    """One strength, less the mean of its linked group, as a row of weights. Shape (Q, M)."""
    unit_QM = np.zeros((len(players_Q), fit.model.parameters))
    unit_QM[np.arange(len(players_Q)), players_Q] = 1
    unit_QM[:, : fit.model.counts.players] -= _gauge(fit, players_Q)
    return unit_QM
