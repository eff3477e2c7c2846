"""Who works on what: units of work go to whichever worker is free. No Ray here, so that a
simulation can hand out as a run does."""

from collections import deque
from collections.abc import Iterable, Iterator


class HandOut:
    """Free workers and units without one; a unit that comes back undone goes first."""

    def __init__(self, workers: Iterable[int], units: int) -> None:
        self._free = deque(workers)
        self._waiting = deque(range(units))

    def assignments(self) -> Iterator[tuple[int, int]]:
        """Worker and unit, until one of the two runs out."""
        while self._free and self._waiting:
            yield self._free.popleft(), self._waiting.popleft()

    def free(self, worker: int) -> None:
        """A worker has finished, or is there anew."""
        self._free.append(worker)

    def undone(self, unit: int) -> None:
        """A unit whose worker was lost."""
        self._waiting.appendleft(unit)
