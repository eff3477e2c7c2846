"""Rows of text in columns, for the terminal and for log files alike."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from align.data.messages import printable
from align.pipeline.progress import console
from align.pipeline.short_names import short_names
from align.reward.feedback_statistics import Measured, Missing

UNKNOWN = "-"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> None:
    """Names on the left, numbers flush right. The first `names` columns are cut where they are
    long; nothing else is, and nothing is wrapped."""
    cut = [short_names([row[place] for row in rows]) for place in range(names)]
    columns = [
        *cut,
        *([printable(row[place]) for row in rows] for place in range(names, len(header))),
    ]
    lines = [header, *zip(*columns, strict=True)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for number, row in enumerate(lines):
        cells = [
            cell + " " * (width - cell_len(cell))
            if place == 0
            else " " * (width - cell_len(cell)) + cell
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        console.print(Text("  " + "  ".join(cells).rstrip(), style="bold" if not number else ""))


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def rate(value: Measured) -> str:
    """A share with its interval and the cases it rests on, or why there is none."""
    if isinstance(value, Missing):
        return value.reason
    return f"{value.share:.1%} ({value.low:.1%} to {value.high:.1%}) of {value.n:,}"
