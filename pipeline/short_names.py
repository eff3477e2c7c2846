"""Names short enough for a table or a plot, in which what tells them apart can still be seen."""

from collections.abc import Sequence
from itertools import takewhile

from rich.cells import cell_len, set_cell_size

from align.data.messages import printable

LONGEST = 40  # columns of a terminal; a Chinese character takes two
DIGITS = 3  # of a counter, of which the last one differs, to be seen with it


def short_names(names: Sequence[str], longest: int = LONGEST) -> list[str]:
    """A printable label of at most `longest` columns for each name; one that fits stays whole.

    Of a longer one the beginning, the end, and the first place where it differs from every other
    name are kept. The name most like it up to there is next to it in sorted order.
    """
    ordered = sorted({printable(name) for name in names})
    labels = {}
    for before, name, after in zip(["", *ordered], ordered, [*ordered[1:], ""], strict=False):
        alike = max(_alike(name, other) for other in (before, after))
        labels[name] = _cut(name, alike, longest)
    return [labels[printable(name)] for name in names]


def _alike(name: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(name, other, strict=False)))


def _cut(name: str, place: int, longest: int) -> str:
    """The name with gaps, none of them at `place`."""
    if cell_len(name) <= longest:
        return name
    half, third = (longest - 1) // 2, (longest - 2) // 3
    begin, end = _start(name, half), _end(name, half)
    if len(begin) <= place < len(name) - len(end) + DIGITS:
        around = _end(name[:place], third // 2) + _start(name[place:], third - third // 2)
        return f"{_start(name, third)}…{around}…{_end(name, third)}"
    return f"{begin}…{end}"


def _start(text: str, columns: int) -> str:
    return set_cell_size(text, columns).rstrip()


def _end(text: str, columns: int) -> str:
    return _start(text[::-1], columns)[::-1]
