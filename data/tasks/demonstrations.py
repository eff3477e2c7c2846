"""Which solved cases an instance shows: of the same task, from training rows, never itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from align.data.chance import pick, unit
from align.data.messages import folded
from align.data.tasks.instances import Demonstration, Instance

POOL = 64
"""Cases of a task that its demonstrations are drawn from."""


def shots(share: float, most: int, *key: object) -> int:
    """How many demonstrations a row shows: none with 1 - share, else 1 to `most`."""
    if unit("few-shot", *key) >= share:
        return 0
    return 1 + pick(most, "shots", *key)


def choose(
    pool: Sequence[Demonstration], instance: Instance, count: int, *key: object
) -> tuple[Demonstration, ...]:
    """`count` cases of the pool in random order, or as many as differ from the instance."""
    query = folded(instance.input)
    others = [one for one in pool if folded(one.input) != query]
    ranked = sorted(others, key=lambda one: unit("demonstration", *key, one.input, one.output))
    return tuple(ranked[:count])


def fitting(instance: Instance, budget: int, tokens: Callable[[Instance], int]) -> Instance:
    """The instance with as many of its first demonstrations as the budget holds.

    Only demonstrations are dropped: description and input stay whole, whatever their length.
    """
    while instance.demonstrations and tokens(instance) > budget:
        instance = replace(instance, demonstrations=instance.demonstrations[:-1])
    return instance
