"""Bradley-Terry ratings from raw battles: how long, against choix, in one process.

Run: python benchmarks/ratings.py

Time is processor time of this process, with one thread for linear algebra, so that other work on
the machine does not decide the ratio. Every solver starts from the same raw battles in the form it
takes (arrays here, a list of tuples there). Theirs stop at a mean step of 1e-8; ours at a step of
1e-6, which for Newton's method leaves an error below that: the differences are printed.
"""

import os
import time
from collections.abc import Callable

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is loaded

import choix
import numpy as np

from align.reward.ratings.battles import Battles, Floats, count_battles
from align.reward.ratings.bradley_terry import fit

PLAYERS = 1_000
TOLERANCE = 1e-8


def planted_battles(battles: int) -> Battles:
    """Random pairs of players with strengths of sd 1, and no ties: choix knows none."""
    generator = np.random.default_rng(0)
    strengths = generator.normal(0, 1, PLAYERS)
    first = generator.integers(0, PLAYERS, battles)
    second = (first + generator.integers(1, PLAYERS, battles)) % PLAYERS
    chance = 1 / (1 + np.exp(strengths[second] - strengths[first]))
    outcome = (generator.random(battles) < chance).astype(np.float64)
    return Battles(PLAYERS, first, second, outcome)


def winners_and_losers(battles: Battles) -> list[tuple[int, int]]:
    won = battles.outcome_B == 1
    winner = np.where(won, battles.first_B, battles.second_B)
    loser = np.where(won, battles.second_B, battles.first_B)
    return list(zip(winner.tolist(), loser.tolist(), strict=True))


def timed(solve: Callable[[], Floats]) -> tuple[float, Floats]:
    start = time.process_time()
    strengths = solve()
    return time.process_time() - start, strengths


def compare(battles: int, solvers: list[str]) -> None:
    played = planted_battles(battles)
    data = winners_and_losers(played)
    runs = [timed(lambda: fit(count_battles(played)).strengths_N) for _ in range(5)]
    ours, strengths = sorted(runs, key=lambda run: run[0])[2]  # the median
    print(f"{battles:>9,} battles  {'align':<15} {ours:8.2f} s", flush=True)
    for name in solvers:
        solver = getattr(choix, name)
        theirs, expected = timed(lambda solver=solver: solver(PLAYERS, data, tol=TOLERANCE))
        apart = np.abs(strengths - (expected - expected.mean())).max()
        print(
            f"{battles:>9,} battles  {name:<15} {theirs:8.2f} s  "
            f"{theirs / ours:6.0f} times as long  largest difference {apart:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    compare(100_000, ["ilsr_pairwise", "opt_pairwise", "mm_pairwise"])
    compare(1_000_000, ["ilsr_pairwise"])  # the fastest of them
