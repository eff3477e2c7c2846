"""Who can be compared with whom.

Ratings of players that are not linked by battles have no common zero. And the maximum likelihood
estimate of Bradley-Terry strengths exists if and only if one gets from every player to every other
along wins (Ford 1957, "Solution of a ranking problem from binary comparisons"): where a group of
players never lost to the rest, the likelihood grows without end as the group moves up.

Shapes: N players, P pairs that met, E edges of a directed graph.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align.reward.ratings.battles import Counts, Floats, Ints

CROWDED = 30  # edges a player


@dataclass(frozen=True)
class Connectivity:
    """Components are numbered from 0, in the order of their lowest player."""

    weak_N: Ints
    """Players of one number are linked by battles, and their ratings can be compared."""
    strong_N: Ints
    """Players of one number are linked by wins, both ways. A tie is a win for both."""

    @property
    def estimate_exists(self) -> bool:
        """Whether there is a finite maximum likelihood estimate (Ford 1957)."""
        return int(self.strong_N.max(initial=0)) == 0


def connectivity(counts: Counts) -> Connectivity:
    """The components of the graph of battles and of the digraph of wins."""
    source_E, target_E = wins_digraph(counts, counts.wins_P, counts.losses_P, counts.ties_P)
    strong_N = strong_components(counts.players, source_E, target_E)
    if not strong_N.any():
        return Connectivity(strong_N, strong_N)
    met_P = counts.battles_P > 0
    i_P, j_P = counts.i_P[met_P], counts.j_P[met_P]
    both_ways = np.concatenate([i_P, j_P]), np.concatenate([j_P, i_P])
    return Connectivity(strong_components(counts.players, *both_ways), strong_N)


def wins_digraph(
    counts: Counts, wins_P: Floats, losses_P: Floats, ties_P: Floats
) -> tuple[Ints, Ints]:
    """An edge from each winner to each player it beat: (source_E, target_E)."""
    up, down = wins_P + ties_P > 0, losses_P + ties_P > 0
    source_E = np.concatenate([counts.i_P[up], counts.j_P[down]])
    return source_E, np.concatenate([counts.j_P[up], counts.i_P[down]])


def strongly_connected(players: int, source_E: Ints, target_E: Ints) -> bool:
    """Whether one gets from every player to every other."""
    if players <= 1:
        return True
    forth_N = _reachable(0, players, source_E, target_E)
    return bool(forth_N.all() and _reachable(0, players, target_E, source_E).all())


def strong_components(players: int, source_E: Ints, target_E: Ints) -> Ints:
    """The number of each player's strongly connected component. Shape (N,)."""
    label_N = np.full(players, -1, dtype=np.int64)
    if not players:
        return label_N
    if len(source_E) > CROWDED * players:
        # Nearly always one component holds nearly everybody: two vectorised searches of a few
        # levels find it, and the search player by player has little left to do.
        busiest = int(np.bincount(source_E, minlength=players).argmax())
        forth_N = _reachable(busiest, players, source_E, target_E)
        label_N[forth_N & _reachable(busiest, players, target_E, source_E)] = players
    rest_N = label_N < 0
    rest_E = rest_N[source_E] & rest_N[target_E]
    rest = np.flatnonzero(rest_N).tolist()
    for number, members in enumerate(_kosaraju(rest, source_E[rest_E], target_E[rest_E])):
        label_N[members] = number
    return _numbered_by_lowest_player(label_N)


def _reachable(start: int, players: int, source_E: Ints, target_E: Ints) -> NDArray[np.bool_]:
    """Breadth-first search, one whole level at a time. Shape (N,)."""
    reached_N = np.zeros(players, dtype=np.bool_)
    reached_N[start] = True
    before, now = 0, 1
    while before < now < players:
        reached_N[target_E[reached_N[source_E]]] = True
        before, now = now, int(reached_N.sum())
    return reached_N


def _kosaraju(players: list[int], source_E: Ints, target_E: Ints) -> Iterator[list[int]]:
    """Strongly connected components, in time linear in players and edges (Sharir 1981).

    Whoever a depth-first search leaves last starts a search against the edges: what this one finds
    anew is one component.
    """
    forth, back = _neighbours(source_E, target_E), _neighbours(target_E, source_E)
    seen: set[int] = set()
    for root in reversed(_depth_first(players, forth)):
        component = [] if root in seen else [root]
        seen.add(root)
        for player in component:  # grows as it is read
            fresh = set(back[player]) - seen
            component.extend(fresh)
            seen |= fresh
        if component:
            yield component


def _depth_first(players: list[int], neighbours: defaultdict[int, list[int]]) -> list[int]:
    """The players in the order in which a depth-first search leaves them."""
    left: list[int] = []
    seen: set[int] = set()
    for root in players:
        path = [] if root in seen else [(root, iter(neighbours[root]))]
        seen.add(root)
        while path:  # no recursion: chains may be longer than Python's stack
            player, onward = path[-1]
            fresh = next((one for one in onward if one not in seen), None)
            if fresh is None:
                left.append(player)
                path.pop()
            else:
                seen.add(fresh)
                path.append((fresh, iter(neighbours[fresh])))
    return left


def _neighbours(source_E: Ints, target_E: Ints) -> defaultdict[int, list[int]]:
    neighbours: defaultdict[int, list[int]] = defaultdict(list)
    for source, target in zip(source_E.tolist(), target_E.tolist(), strict=True):
        neighbours[source].append(target)
    return neighbours


def _numbered_by_lowest_player(label_N: Ints) -> Ints:
    _, lowest, component_N = np.unique(label_N, return_index=True, return_inverse=True)
    rank = np.empty(len(lowest), dtype=np.int64)
    rank[np.argsort(lowest)] = np.arange(len(lowest))
    return rank[component_N]
