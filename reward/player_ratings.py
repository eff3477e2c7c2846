"""Ratings of the players of battles, by criterion, from raw records.

A player is a policy, as `player_a` and `player_b` name it. Fitted strengths on the Elo scale, with
intervals by the bootstrap over annotators, since votes of one person are not independent. A few
annotators cannot stand for all others: then votes are drawn, and the intervals are about these few.

Votes that are all alike are alike in every resample: after one battle, after nothing but ties or
without a defeat the bootstrap sees no doubt. So no interval ends nearer than that of the curvature
of the log-posterior, 1.96 standard errors, which is wide where the votes say little.

Shapes: N players.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from align.data.schemas import Record
from align.reward.annotators.votes import numbered
from align.reward.judged_pairs import OUTCOMES
from align.reward.ratings import bradley_terry
from align.reward.ratings.battles import Battles, Floats, Ints, count_battles
from align.reward.ratings.bootstrap import bootstrap
from align.reward.ratings.elo import ELO_PER_NAT, online_elo, to_elo
from align.reward.ratings.outcomes import TieModel, outcome_probabilities
from align.reward.ratings.scheduling import most_informative
from align.reward.ratings.uncertainty import standard_errors

MEAN = 1000.0  # Elo points of an average player
RESAMPLES = 1000
LEAST_ANNOTATORS = 10  # to draw from: with fewer, the bootstrap draws votes
NEVER_MET = "{count} groups of players never met each other: their ratings cannot be compared"
STANDARD_ERRORS = 1.959964  # on either side of the mean of a normal distribution: 95 %


@dataclass(frozen=True)
class Rating:
    """One player; `low` to `high` is the 95 % interval."""

    player: str
    battles: int
    elo: float
    low: float
    high: float
    standard_error: float
    """In Elo points, as if all votes were independent."""
    online: float
    """Online Elo after the last battle, for display: it depends on the order of the battles."""
    group: int
    """From 0. Players of different groups never met, and their ratings have no common zero."""


@dataclass(frozen=True)
class Ratings:
    """The players of one criterion, group by group, the best of each first."""

    players: list[Rating]
    battles: int
    annotators: int
    by_annotator: bool
    """Whether the bootstrap drew annotators; else it drew votes."""
    ties: TieModel
    tie_parameter: float | None
    even_tie: float | None
    """How likely two equal players tie, where ties have a parameter."""
    position_effect: float | None
    """What being shown first is worth, in Elo points; None where the order is not recorded."""
    note: str | None
    """Why there is a prior, if there is one."""
    next_battles: list[tuple[str, str]]
    """Who should meet next, the most telling battle first; players of two groups before others."""

    @property
    def groups(self) -> list[list[Rating]]:
        """The players who can be compared with each other; each group has a mean of its own."""
        return [list(some) for _, some in groupby(self.players, key=lambda one: one.group)]


def ratings_of(
    records: Sequence[Record], ties: TieModel, next_battles: int = 0
) -> dict[str, Ratings]:
    """Ratings by criterion, of people's battles between named players; of models' battles where
    nobody else voted. Gold records and skips are left out. `next_battles`: so many are proposed."""
    battles: dict[str, list[Record]] = defaultdict(list)
    for one in records:
        if one["kind"] == "comparison" and _is_battle(one):
            battles[one["criterion"]].append(one)
    return {
        name: _rated(_by_people(some), ties, next_battles) for name, some in sorted(battles.items())
    }


def _is_battle(record: Record) -> bool:
    players = record["player_a"], record["player_b"]
    named = None not in players and players[0] != players[1]
    return named and record["outcome"] in OUTCOMES and not record["gold"]


def _by_people(battles: list[Record]) -> list[Record]:
    return [one for one in battles if one["annotator_kind"] == "human"] or battles


def _rated(records: list[Record], ties: TieModel, next_battles: int) -> Ratings:
    records = sorted(records, key=lambda one: one["created_at"])  # as online Elo wants them
    count = len(records)
    player_2B, players = numbered([one[f"player_{side}"] for side in "ab" for one in records])
    annotator_B, annotators = numbered([one["annotator_id"] for one in records])
    by_annotator = len(annotators) >= LEAST_ANNOTATORS
    shown_B = np.array([_shown_first(one) for one in records], np.int64)
    battles = Battles(
        players=len(players),
        first_B=player_2B[:count],
        second_B=player_2B[count:],
        outcome_B=np.array([(OUTCOMES[one["outcome"]] + 1) / 2 for one in records]),
        cluster_B=annotator_B if by_annotator else None,
        shown_first_B=shown_B,
    )
    positioned = bool(shown_B.any())
    counts = count_battles(battles, positioned)
    fit = bradley_terry.fit(counts, ties, positioned)
    i_Q, j_Q = most_informative(fit.strengths_N, counts, next_battles)
    return Ratings(
        players=_players(battles, fit, players),
        battles=count,
        annotators=len(annotators),
        by_annotator=by_annotator,
        ties=ties,
        tie_parameter=fit.tie_parameter,
        even_tie=_even_tie(fit, ties),
        position_effect=fit.gamma * ELO_PER_NAT if positioned else None,
        note=fit.note,
        next_battles=[(players[i], players[j]) for i, j in zip(i_Q, j_Q, strict=True)],
    )


def _even_tie(fit: bradley_terry.Fit, ties: TieModel) -> float | None:
    if fit.tie_parameter is None:
        return None
    _, tie, _ = outcome_probabilities(ties, np.zeros(1), fit.tie_parameter)
    return float(tie.item())


def _shown_first(record: Record) -> int:
    """1: a was shown first, -1: b was, 0: not recorded."""
    order = record["display_order"]
    return 0 if order is None else 1 - 2 * int(order[0])


def _players(battles: Battles, fit: bradley_terry.Fit, names: Sequence[str]) -> list[Rating]:
    elo_N, error_N = to_elo(fit.strengths_N, MEAN), standard_errors(fit) * ELO_PER_NAT
    low_N, high_N = _interval(battles, fit, elo_N, STANDARD_ERRORS * error_N)
    online_N = online_elo(battles, start=MEAN)
    played_N: Ints = np.bincount(np.concatenate([battles.first_B, battles.second_B]))
    rated = [
        Rating(
            name,
            int(played_N[place]),
            float(elo_N[place]),
            float(low_N[place]),
            float(high_N[place]),
            float(error_N[place]),
            float(online_N[place]),
            int(fit.connectivity.weak_N[place]),
        )
        for place, name in enumerate(names)
    ]
    return sorted(rated, key=lambda one: (one.group, -one.elo, one.player))


def _interval(
    battles: Battles, fit: bradley_terry.Fit, elo_N: Floats, reach_N: Floats
) -> tuple[Floats, Floats]:
    """That of the bootstrap, ending at least `reach` away from the rating: (low_N, high_N)."""
    low_N, high_N = (to_elo(x, MEAN) for x in bootstrap(battles, fit, RESAMPLES).interval())
    return np.minimum(low_N, elo_N - reach_N), np.maximum(high_N, elo_N + reach_N)
