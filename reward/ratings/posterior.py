"""The log-posterior of Bradley-Terry parameters, and its Newton steps.

A row of counts depends on its parameters through d = s_i - s_j + gamma position alone. So the
information on strengths is a weighted Laplacian of the graph of pairs that met, bordered by a
column for gamma and one for the tie parameter: a matrix for few players, and for many a product
that takes one pass over the pairs and never N^2 doubles.

Shapes: N players, P rows of counts, R resamples (1 where there is one data set), M parameters:
strengths s_N, then gamma if fitted, then the tie parameter if the model has one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from align.reward.ratings.battles import Counts, Floats, Ints
from align.reward.ratings.outcomes import LIKELIHOODS, RowDerivatives, TieModel

ELIMINATE_UP_TO = 300  # parameters; beyond, conjugate gradients are faster than elimination
MATRIX_UP_TO = 2_000  # parameters; a matrix of 32 MB. Beyond, there is never one
RESIDUAL = 1e-10  # of conjugate gradients, relative to the right-hand side


@dataclass(frozen=True)
class Model:
    """What is fitted to which counts. The counts may be resampled: of shape (R, P)."""

    counts: Counts
    ties: TieModel
    position: bool
    """Whether gamma is fitted."""

    @property
    def parameters(self) -> int:
        """M."""
        return self.counts.players + self.position + (self.ties != "half_win")


@dataclass(frozen=True)
class Posterior:
    """The log-posterior at `theta_RM`, its gradient, and what its curvature is made of."""

    theta_RM: Floats
    value_R: Floats
    gradient_RM: Floats
    rows: RowDerivatives


def split(model: Model, theta_RM: Floats) -> tuple[Floats, Floats, Floats]:
    """Strengths (R, N), gamma (R, 1) and tie parameter (R, 1); 0 for what is not fitted."""
    players = model.counts.players
    zero = np.zeros((len(theta_RM), 1))
    gamma_R1 = theta_RM[:, players : players + 1] if model.position else zero
    tie_R1 = theta_RM[:, -1:] if model.ties != "half_win" else zero
    return theta_RM[:, :players], gamma_R1, tie_R1


def evaluate(model: Model, theta_RM: Floats, precision_RM: Floats) -> Posterior:
    """Log-likelihood less precision theta^2 / 2, which is a normal prior around 0."""
    counts = model.counts
    _, _, tie_R1 = split(model, theta_RM)
    rows = LIKELIHOODS[model.ties](
        _differences(model, theta_RM), tie_R1, counts.wins_P, counts.losses_P, counts.ties_P
    )
    return Posterior(
        theta_RM,
        rows.value.sum(axis=1) - (precision_RM * theta_RM**2).sum(axis=1) / 2,
        _to_parameters(model, rows.by_d, rows.by_t) - precision_RM * theta_RM,
        rows,
    )


def newton_step(model: Model, at: Posterior, precision_RM: Floats) -> Floats:
    """The inverse of the information times the gradient. Shape (R, M)."""
    if model.parameters > ELIMINATE_UP_TO:
        return conjugate_gradients(model, at.rows, precision_RM, at.gradient_RM)
    information_RMM = information_matrix(model, at.rows, precision_RM)
    strengths = slice(model.counts.players)
    information_RMM[:, strengths, strengths] += _stiffness(model, at.rows, precision_RM)[:, :, None]
    step_RM = np.linalg.solve(information_RMM, at.gradient_RM[:, :, None])[:, :, 0]
    return np.asarray(step_RM, dtype=np.float64)


def information_matrix(model: Model, rows: RowDerivatives, precision_RM: Floats) -> Floats:
    """Minus the second derivatives of the log-posterior. Shape (R, M, M).

    For the strengths it is H = sum n_ij p (1 - p) (e_i - e_j)(e_i - e_j)^T, plus the precision.
    """
    counts, players = model.counts, model.counts.players
    resamples, parameters = precision_RM.shape
    cell_P = counts.i_P * players + counts.j_P
    above_RNN = _sum_by(cell_P, rows.by_dd, players**2).reshape(len(rows.by_dd), players, players)
    information_RMM = np.zeros((resamples, parameters, parameters))
    laplacian_RNN = information_RMM[:, :players, :players]
    laplacian_RNN -= above_RNN
    laplacian_RNN -= above_RNN.swapaxes(1, 2)
    every = np.arange(players)
    laplacian_RNN[:, every, every] -= laplacian_RNN.sum(axis=2)
    for column in range(players, parameters):
        unit_1M = np.eye(1, parameters, column)
        border_RM = _information_times(model, rows, unit_1M)
        information_RMM[:, column, :] = information_RMM[:, :, column] = border_RM
    diagonal = np.arange(parameters)
    information_RMM[:, diagonal, diagonal] += precision_RM
    return information_RMM


def conjugate_gradients(
    model: Model, rows: RowDerivatives, precision_RM: Floats, right_RM: Floats
) -> Floats:
    """Solves information x = right (Hestenes and Stiefel 1952). Shape (R, M).

    The diagonal is the preconditioner. `rows` and `precision` of one data set serve any number of
    right-hand sides. Without a prior these must have nothing in the direction in which all
    strengths move together.
    """
    times, diagonal_RM = _information_product(model, rows, precision_RM)
    scale_RM = 1 / np.maximum(diagonal_RM, np.finfo(np.float64).tiny)
    x_RM, residual_RM = np.zeros_like(right_RM), right_RM
    direction_RM = scale_RM * residual_RM
    energy_R1 = _dot(residual_RM, direction_RM)
    enough_R1 = energy_R1 * RESIDUAL**2
    for _ in range(10 * model.parameters):
        if (energy_R1 <= enough_R1).all():
            break
        product_RM = times(direction_RM)
        length_R1 = _ratio(energy_R1, _dot(direction_RM, product_RM))
        x_RM = x_RM + length_R1 * direction_RM
        residual_RM = residual_RM - length_R1 * product_RM
        before_R1, energy_R1 = energy_R1, _dot(residual_RM, scale_RM * residual_RM)
        direction_RM = scale_RM * residual_RM + _ratio(energy_R1, before_R1) * direction_RM
    return x_RM


def _information_product(
    model: Model, rows: RowDerivatives, precision_RM: Floats
) -> tuple[Callable[[Floats], Floats], Floats]:
    """The stiffened information as a product with a vector of shape (R, M), and its diagonal."""
    players = model.counts.players
    stiffness_R1 = _stiffness(model, rows, precision_RM)
    if model.parameters <= MATRIX_UP_TO:
        matrix_RMM = information_matrix(model, rows, precision_RM)
        matrix_RMM[:, :players, :players] += stiffness_R1[:, :, None]
        diagonal_RM = np.diagonal(matrix_RMM, axis1=1, axis2=2)
        return lambda vector_RM: (matrix_RMM @ vector_RM[:, :, None])[:, :, 0], diagonal_RM

    def times(vector_RM: Floats) -> Floats:
        product_RM = _information_times(model, rows, vector_RM) + precision_RM * vector_RM
        product_RM[:, :players] += stiffness_R1 * vector_RM[:, :players].sum(axis=1, keepdims=True)
        return product_RM

    return times, _diagonal(model, rows) + precision_RM


def _differences(model: Model, theta_RM: Floats) -> Floats:
    """d = s_i - s_j + gamma position. Shape (R, P)."""
    counts = model.counts
    strengths_RN, gamma_R1, _ = split(model, theta_RM)
    difference_RP = strengths_RN[:, counts.i_P] - strengths_RN[:, counts.j_P]
    return difference_RP + gamma_R1 * counts.position_P if model.position else difference_RP


def _to_parameters(model: Model, by_d_RP: Floats, by_t_RP: Floats) -> Floats:
    """The transpose: from derivatives by d and t of every row to those by the parameters."""
    counts = model.counts
    gain_RN = _sum_by(counts.i_P, by_d_RP, counts.players)
    loss_RN = _sum_by(counts.j_P, by_d_RP, counts.players)
    parts = [gain_RN - loss_RN]
    if model.position:
        parts.append((by_d_RP * counts.position_P).sum(axis=1, keepdims=True))
    if model.ties != "half_win":
        parts.append(by_t_RP.sum(axis=1, keepdims=True))
    return np.concatenate(parts, axis=1)


def _information_times(model: Model, rows: RowDerivatives, vector_RM: Floats) -> Floats:
    """Information of the data, without the prior, times a vector. Shape (R, M)."""
    d_RP = _differences(model, vector_RM)
    if model.ties == "half_win":
        return _to_parameters(model, rows.by_dd * d_RP, rows.by_dt)
    _, _, t_R1 = split(model, vector_RM)
    return _to_parameters(
        model, rows.by_dd * d_RP + rows.by_dt * t_R1, rows.by_dt * d_RP + rows.by_tt * t_R1
    )


def _diagonal(model: Model, rows: RowDerivatives) -> Floats:
    counts = model.counts
    parts = [
        _sum_by(counts.i_P, rows.by_dd, counts.players)
        + _sum_by(counts.j_P, rows.by_dd, counts.players)
    ]
    if model.position:
        parts.append((rows.by_dd * counts.position_P**2).sum(axis=1, keepdims=True))
    if model.ties != "half_win":
        parts.append(rows.by_tt.sum(axis=1, keepdims=True))
    return np.concatenate(parts, axis=1)


def _sum_by(group_P: Ints, value_RP: Floats, groups: int) -> Floats:
    """Sums of the values of each group. Shape (R, groups)."""
    resamples = len(value_RP)
    if resamples > 1:
        group_P = (group_P + groups * np.arange(resamples)[:, None]).ravel()
    summed = np.bincount(group_P, value_RP.ravel(), minlength=groups * resamples)
    return summed.astype(np.float64, copy=False).reshape(resamples, groups)


def _stiffness(model: Model, rows: RowDerivatives, precision_RM: Floats) -> Floats:
    """What to add to the information of every two strengths. Shape (R, 1).

    The likelihood does not change as all strengths move together, and without a prior a gradient
    has nothing but rounding errors there: stiffness makes the system regular and no step longer.
    """
    degrees_R1 = 2 * rows.by_dd.sum(axis=1, keepdims=True)
    mean_R1 = np.where(degrees_R1 > 0, degrees_R1, 1.0) / max(model.counts.players, 1) ** 2
    return np.where(precision_RM[:, :1] > 0, 0.0, mean_R1)


def _dot(left_RM: Floats, right_RM: Floats) -> Floats:
    products_R1: Floats = (left_RM * right_RM).sum(axis=1, keepdims=True)
    return products_R1


def _ratio(above_R1: Floats, below_R1: Floats) -> Floats:
    """0 where a system is solved and its direction has vanished."""
    return np.divide(above_R1, below_R1, out=np.zeros_like(above_R1), where=below_R1 > 0)
