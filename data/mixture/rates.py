"""How often each source of a mixture is drawn. Pure formulas.

Legend: M sources. Rates sum to 1; `draws_M` are expected draws in one pass of `total`.
"""

import numpy as np

from align.data.arrays import Floats, Ints

UNLIMITED = np.inf


def examples_proportional(rows_M: Ints, cap: float, temperature: float) -> Floats:
    """r_m = min(e_m, K) / sum_n min(e_n, K), then r_m^(1/T) renormalised.

    Raffel et al. 2020 (arXiv:1910.10683), section 3.5.2. K = 1 makes all equal, K = inf keeps
    proportions.
    """
    sizes_M = np.minimum(rows_M.astype(np.float64), cap)
    return _normalised(_normalised(sizes_M) ** (1 / temperature))


def upsampled(rate_M: Floats, quality_M: Floats) -> Floats:
    """q_m r_m, renormalised: doubling q_m doubles the odds of a source against any other."""
    return _normalised(rate_M * quality_M)


def limited(rate_M: Floats, limit_M: Floats, total: float) -> Floats:
    """Draws in proportion to the rates, none above its limit; what is left over is redistributed.

    The sum is `total`, or that of the limits where those are less.
    """
    draws_M = np.zeros(len(rate_M))
    free_M = rate_M > 0
    while free_M.any():
        left = total - draws_M[~free_M].sum()
        wanted_M = np.where(free_M, left * rate_M / rate_M[free_M].sum(), draws_M)
        over_M = free_M & (wanted_M > limit_M)
        if not over_M.any():
            return wanted_M
        draws_M[over_M] = limit_M[over_M]
        free_M &= ~over_M
    return draws_M


def with_token_shares(
    rate_M: Floats, limit_M: Floats, tokens_M: Floats, share_M: Floats, cost_M: Floats, total: float
) -> Floats:
    """Draws where some sources have a share of all tokens, and the others' rates go by rows.

    `tokens_M` is the mean length of a source's rows; `share_M` is 0 for sources that go by rows.
    With P the sum of the shares and I the tokens of the others' draws, source m gives
    share_m / (1 - P) * I tokens. All draws together cost `total`, or less where the limits allow
    no more; a draw costs 1 where rows are counted, its tokens where tokens are. More draws of the
    others cost more, but limits make that uneven, so their number is found by bisection.
    """
    by_tokens_M = share_M > 0
    by_rows_M = np.where(by_tokens_M, 0.0, rate_M)

    def draws(others: float) -> Floats:
        rows_M = limited(by_rows_M, limit_M, others)
        wanted_M = share_M / (1 - share_M.sum()) * (rows_M @ tokens_M) / tokens_M
        return np.where(by_tokens_M, np.minimum(wanted_M, limit_M), rows_M)

    low, high = 0.0, total / float(cost_M.min())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if draws(middle) @ cost_M < total else (low, middle)
    return draws(high)


def whole(draws_M: Floats) -> Ints:
    """Rounded so that their sum stays the rounded sum (largest remainder)."""
    down_M = np.floor(draws_M + 1e-9).astype(np.int64)
    missing = round(float(draws_M.sum())) - int(down_M.sum())
    order = np.argsort(-(draws_M - down_M), kind="stable")
    down_M[order[:missing]] += 1
    return down_M


def _normalised(weight_M: Floats) -> Floats:
    normalised: Floats = weight_M / weight_M.sum()
    return normalised
