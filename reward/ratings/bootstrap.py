"""Intervals of strengths by the bootstrap (Efron 1979), clustered by annotator.

Votes of one annotator are alike. So whole annotators are drawn with replacement, each with all its
votes, and the ratings are fitted again (Field and Welsh 2007, "Bootstrapping clustered data").
Resampled data differ only in their counts: refits run side by side, from the fit to all data on.

Shapes: R resamples, N players, P rows of counts, C clusters, G groups of votes of one cluster on
one row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from align.reward.ratings.battles import (
    Battles,
    ClusterCounts,
    Counts,
    Floats,
    count_by_cluster,
)
from align.reward.ratings.bradley_terry import FALLBACK_PRIOR_SD, Fit, maximise, prior_precision
from align.reward.ratings.connectivity import strongly_connected, wins_digraph
from align.reward.ratings.posterior import MATRIX_UP_TO, Model, split

CHUNK = 2**22  # doubles held at once for each array


@dataclass(frozen=True)
class Bootstrap:
    """Refitted strengths, one row for each resample."""

    strengths_RN: Floats
    with_prior: int
    """How many refits had a prior; beyond the fit's own, those without an estimate otherwise."""

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Percentile interval of each strength: (low_N, high_N)."""
        tail = (1 - level) / 2
        low_N, high_N = np.quantile(self.strengths_RN, (tail, 1 - tail), axis=0)
        return low_N, high_N


def bootstrap(battles: Battles, fit: Fit, resamples: int = 1000, seed: int = 0) -> Bootstrap:
    """Refits `fit`, which was made of these battles, to resamples of them.

    Without clusters every vote is drawn by itself.
    """
    generator = np.random.default_rng(seed)
    strengths, with_prior = [], 0
    for counts in _resampled(battles, fit, resamples, generator):
        model = replace(fit.model, counts=counts)
        sd_R = _prior_sds(fit, counts)
        with_prior += int(np.isfinite(sd_R).sum())
        start_RM = np.repeat(fit.theta_M[None, :], len(sd_R), axis=0)
        at = maximise(model, prior_precision(model, sd_R), start_RM)
        strengths.append(split(model, at.theta_RM)[0])
    return Bootstrap(np.concatenate(strengths), with_prior)


def _prior_sds(fit: Fit, counts: Counts) -> Floats:
    """The fit's prior, or the fallback for resamples that have no estimate without. Shape (R,)."""
    if fit.prior_sd is not None:
        return np.full(len(counts.wins_P), fit.prior_sd)
    exists_R = [
        strongly_connected(counts.players, *wins_digraph(counts, *tallies))
        for tallies in zip(counts.wins_P, counts.losses_P, counts.ties_P, strict=True)
    ]
    return np.where(exists_R, np.inf, FALLBACK_PRIOR_SD)


def _resampled(
    battles: Battles, fit: Fit, resamples: int, generator: np.random.Generator
) -> Iterator[Counts]:
    """Counts of shape (R, P), some resamples at a time."""
    if not len(battles.outcome_B):
        none_RP = np.zeros((resamples, 0))
        yield replace(fit.model.counts, wins_P=none_RP, losses_P=none_RP, ties_P=none_RP)
        return
    by_cluster = None
    if battles.cluster_B is not None:
        by_cluster = count_by_cluster(battles, fit.model.position)
    width = _resamples_at_once(fit.model, by_cluster)
    for start in range(0, resamples, width):
        size = min(width, resamples - start)
        if by_cluster is None:
            yield _draw_votes(fit.model.counts, size, generator)
        else:
            yield _draw_clusters(fit.model.counts, by_cluster, size, generator)


def _resamples_at_once(model: Model, by_cluster: ClusterCounts | None) -> int:
    groups = 0 if by_cluster is None else len(by_cluster.row_G)
    matrix = model.parameters**2 if model.parameters <= MATRIX_UP_TO else model.parameters
    return max(CHUNK // max(groups, matrix, 3 * len(model.counts.i_P), 1), 1)


def _draw_votes(counts: Counts, size: int, generator: np.random.Generator) -> Counts:
    """As many votes as there are, each drawn from all of them."""
    tallies_3P = np.concatenate([counts.wins_P, counts.losses_P, counts.ties_P])
    votes = int(tallies_3P.sum())
    drawn = generator.multinomial(votes, tallies_3P / votes, size).astype(np.float64)
    wins_RP, losses_RP, ties_RP = np.split(drawn, 3, axis=1)
    return replace(counts, wins_P=wins_RP, losses_P=losses_RP, ties_P=ties_RP)


def _draw_clusters(
    counts: Counts, by_cluster: ClusterCounts, size: int, generator: np.random.Generator
) -> Counts:
    """As many clusters as there are, each drawn from all of them."""
    clusters, rows = by_cluster.clusters, len(counts.i_P)
    times_RC = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size)
    times_RG = times_RC[:, by_cluster.cluster_G]
    cell_RG = by_cluster.row_G + rows * np.arange(size)[:, None]
    wins_RP, losses_RP, ties_RP = (
        np.bincount(cell_RG.ravel(), (times_RG * tally_G).ravel(), minlength=size * rows)
        .reshape(size, rows)
        .astype(np.float64)
        for tally_G in by_cluster.tallies_G
    )
    return replace(counts, wins_P=wins_RP, losses_P=losses_RP, ties_P=ties_RP)
