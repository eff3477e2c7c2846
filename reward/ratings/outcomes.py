"""How likely a win, a tie and a loss are, given by how much one player is stronger.

With d = s_i - s_j, plus gamma where i was shown first and minus gamma where j was, and sigma the
logistic function:

- `half_win` (Bradley and Terry 1952): P(i wins) = sigma(d); a tie counts as half a win for both.
- `davidson` (Davidson 1970, eq. 2.5): P(tie) = nu sqrt(p_i p_j) / (p_i + p_j + nu sqrt(p_i p_j)),
  with p = exp(s); its parameter is log nu.
- `rao_kupper` (Rao and Kupper 1967, eq. 2.3): P(i wins) = p_i / (p_i + theta p_j), so that a
  difference below log theta is hard to see; its parameter is log(theta^2 - 1).

In these parameters all three log-likelihoods are concave and their parameters unbounded. So one
Newton iteration serves them all.

Shapes: P rows of counts, R resamples (1 where there is one data set).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from align.reward.ratings.battles import Floats

TieModel = Literal["half_win", "davidson", "rao_kupper"]


class RowDerivatives(NamedTuple):
    """The log-likelihood of each row of counts and its derivatives by d and by the tie parameter t.

    The second derivatives have their sign changed, and so are information. Shapes (R, P).
    """

    value: Floats
    by_d: Floats
    by_t: Floats
    by_dd: Floats
    by_dt: Floats
    by_tt: Floats


def half_win(d: Floats, t: Floats, wins: Floats, losses: Floats, ties: Floats) -> RowDerivatives:
    """(w + t/2) log sigma(d) + (l + t/2) log sigma(-d); the tie parameter has no effect."""
    up, down = wins + ties / 2, losses + ties / 2
    log_win, win, loss = _log_sigmoid(d)
    zero = np.zeros((1, 1))
    return RowDerivatives(
        value=(up + down) * log_win - down * d,
        by_d=up * loss - down * win,
        by_t=zero,
        by_dd=(up + down) * win * loss,
        by_dt=zero,
        by_tt=zero,
    )


def davidson(d: Floats, t: Floats, wins: Floats, losses: Floats, ties: Floats) -> RowDerivatives:
    """(w - l) d/2 + t log nu - n log(exp(d/2) + exp(-d/2) + nu): an exponential family."""
    battles = wins + losses + ties
    log_total = np.logaddexp(np.logaddexp(d / 2, -d / 2), t)
    win, loss, tie = np.exp(d / 2 - log_total), np.exp(-d / 2 - log_total), np.exp(t - log_total)
    return RowDerivatives(
        value=(wins - losses) * d / 2 + ties * t - battles * log_total,
        by_d=((wins - losses) - battles * (win - loss)) / 2,
        by_t=ties * (win + loss) - (wins + losses) * tie,  # ties - battles tie, better rounded
        by_dd=battles * (win + loss - (win - loss) ** 2) / 4,
        by_dt=-battles * (win - loss) * tie / 2,
        by_tt=battles * tie * (win + loss),
    )


def rao_kupper(d: Floats, t: Floats, wins: Floats, losses: Floats, ties: Floats) -> RowDerivatives:
    """(w + t) log sigma(d - h) + (l + t) log sigma(-d - h) + t log(theta^2 - 1), h = log theta."""
    h = np.logaddexp(0, t) / 2
    _, rise, rest = _log_sigmoid(t)
    h_slope, h_curvature = rise / 2, rise * rest / 2
    log_win, win, not_win = _log_sigmoid(d - h)
    log_loss, loss, not_loss = _log_sigmoid(-d - h)
    not_lost, not_won = wins + ties, losses + ties
    pull_up, pull_down = not_lost * not_win, not_won * not_loss
    bend_up, bend_down = pull_up * win, pull_down * loss
    return RowDerivatives(
        value=not_lost * log_win + not_won * log_loss + ties * t,
        by_d=pull_up - pull_down,
        by_t=ties - (pull_up + pull_down) * h_slope,
        by_dd=bend_up + bend_down,
        by_dt=(bend_down - bend_up) * h_slope,
        by_tt=(bend_up + bend_down) * h_slope**2 + (pull_up + pull_down) * h_curvature,
    )


LIKELIHOODS: dict[TieModel, Callable[..., RowDerivatives]] = {
    "half_win": half_win,
    "davidson": davidson,
    "rao_kupper": rao_kupper,
}


def outcome_probabilities(
    ties: TieModel, difference: Floats, tie_parameter: float
) -> tuple[Floats, Floats, Floats]:
    """P(win), P(tie) and P(loss), which sum to 1, in the shape of `difference`.

    `tie_parameter` is nu of Davidson (>= 0) or theta of Rao and Kupper (>= 1); `half_win` has none,
    and no ties.
    """
    d = np.asarray(difference, dtype=np.float64)
    if ties == "davidson":
        win, loss = np.exp(np.minimum(d, 0)), np.exp(-np.maximum(d, 0))
        tie = tie_parameter * np.exp(-np.abs(d) / 2)
        return win / (total := win + tie + loss), tie / total, loss / total
    h = np.log(tie_parameter) if ties == "rao_kupper" else 0.0
    (_, win, _), (_, loss, _) = _log_sigmoid(d - h), _log_sigmoid(-d - h)
    return win, np.expm1(2 * h) * win * loss, loss


def _log_sigmoid(x: Floats) -> tuple[Floats, Floats, Floats]:
    """log sigma(x), sigma(x) and sigma(-x), from one exponential that cannot overflow."""
    small = np.exp(-np.abs(x))
    large_share = 1 / (1 + small)
    small_share, likely = small * large_share, x >= 0
    return (
        np.minimum(x, 0) + np.log(large_share),
        np.where(likely, large_share, small_share),
        np.where(likely, small_share, large_share),
    )
