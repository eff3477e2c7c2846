"""Plots of raw feedback. Each one says in its title what one sees."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from align.data.messages import printable
from align.pipeline.short_names import short_names
from align.pipeline.svg import INK, SERIES, Plot, draw_plot
from align.reward.feedback_statistics import Agreement, Measured, Missing, Rate

LONGEST_LABEL = 28  # characters
READABLE = 8  # annotators up to which a cell of the matrix has room for its numbers
STRONGEST = 0.6  # opacity of a cell of full agreement: text on it stays readable
ROW = 0.17  # height of a line of a list, in inches


@dataclass(frozen=True)
class RatingInterval:
    """A player's rating and its interval, on any scale."""

    player: str
    value: float
    low: float
    high: float


def rating_intervals(ratings: Sequence[RatingInterval], unit: str) -> Plot:
    """A dot with its interval for every player, the best on top; `unit` names the scale."""
    named = [replace(rating, player=printable(rating.player)) for rating in ratings]
    rows = sorted(named, key=lambda rating: rating.value)
    labels = short_names([rating.player for rating in rows], LONGEST_LABEL)
    best = rows[-1]
    near = sum(rating.high >= best.low for rating in rows) - 1
    level = sum(f"{rating.value:.4g}" == f"{best.value:.4g}" for rating in rows)
    title = f"{labels[-1]} is ahead with {best.value:.4g}"
    if level > 1:
        title = f"{level} of {len(rows)} players are level with {best.value:.4g}"
    if near and level == 1:
        title += f", but the intervals of {near} of {len(rows) - 1} others reach into its own"

    def draw(axes: Axes) -> None:
        for height, rating in enumerate(rows):
            axes.plot([rating.low, rating.high], [height] * 2, color=SERIES[0], alpha=0.45, lw=3)
            axes.plot(rating.value, height, "o", ms=4, mew=0, color=SERIES[0])
        axes.set_yticks(range(len(rows)), labels)
        axes.set(ylim=(-0.7, len(rows) - 0.3))
        axes.set_xlabel(f"{unit}, 95 % interval", loc="right")  # longer than the axis at times

    described = "; ".join(
        f"{rating.player} {rating.value:.4g}, {rating.low:.4g} to {rating.high:.4g}"
        for rating in reversed(rows)
    )
    return draw_plot(title, f"{title}. {described}.", draw, _height(len(rows)))


def agreement_matrix(agreement: Agreement) -> Plot:
    """How alike every two annotators judged. The stronger a cell, the more they agree.

    Few annotators have numbers in their cells; of many, the size of a cell stands for n. The axes
    number the annotators, and the plot's key names them: no axis has room for 20 addresses.
    """
    names = agreement.annotators
    couples = _couples(agreement)
    title = _agreement_in_words(agreement, couples)

    def draw(axes: Axes) -> None:
        most = max((n for *_, n, _ in couples), default=1)
        for row, column, n, agreed in couples:
            side = 0.94 if len(names) <= READABLE else 0.94 * math.sqrt(n / most)
            corner = (column - side / 2, row - side / 2)
            alpha = STRONGEST * agreed / n
            axes.add_patch(Rectangle(corner, side, side, color=SERIES[0], alpha=alpha, lw=0))
            if len(names) <= READABLE:
                text = f"{agreed / n:.0%}\nn = {n}"
                axes.annotate(text, (column, row), ha="center", va="center", size=8)
        numbers = [str(number) for number in range(1, len(names) + 1)]
        axes.set_xticks(range(len(names)), numbers)
        axes.set_yticks(range(len(names)), numbers)
        end = max(len(names), 1) - 0.5
        axes.set(xlim=(-0.5, end), ylim=(end, -0.5), aspect="equal")
        axes.set_xlabel("" if len(names) <= READABLE else "larger: more judged by both")
        axes.grid(False)

    described = "; ".join(
        f"{row + 1} and {column + 1} {agreed / n:.0%} of {n}"
        for row, column, n, agreed in couples
        if row < column
    )
    height = min(4.2, 2.2 + 0.25 * len(names))
    return draw_plot(title, f"{title}. {described}.", draw, height, key=names)


def _agreement_in_words(agreement: Agreement, couples: Sequence[tuple[int, int, int, int]]) -> str:
    """What all annotators do, and who of those that are drawn agrees least."""
    if isinstance(agreement.everybody, Missing):
        return "No two annotators judged the same answers"
    overall = f"{agreement.everybody.share:.0%}"
    title = f"Two annotators agree on {overall} of what both judged"
    judged, agreed = Counter[int](), Counter[int]()
    for row, _, n, same in couples:
        judged[row] += n
        agreed[row] += same
    names, drawn = short_names(agreement.annotators, LONGEST_LABEL), ""
    if agreement.annotators_in_all > len(names):
        drawn = f"of the {len(names)} busiest of {agreement.annotators_in_all:,}, drawn here, "
    least = min(judged, key=lambda row: agreed[row] / judged[row], default=None)
    if least is None or (lowest := f"{agreed[least] / judged[least]:.0%}") == overall:
        return title
    return f"{title}; {drawn}{names[least]} ({least + 1}) least, on {lowest}"


def biases(longer_won: Measured, first_won: Measured) -> Plot:
    """How often the longer answer won, and the one shown first; half is no bias."""
    rows = [
        (label, words, rate)
        for label, words, rate in (
            ("shown first", "the one shown first", first_won),
            ("longer", "The longer answer", longer_won),
        )
        if isinstance(rate, Rate)
    ]
    said = [f"{words} won {rate.share:.0%} of the time" for _, words, rate in reversed(rows)]
    if not rows:
        reasons = [one.reason for one in (longer_won, first_won) if isinstance(one, Missing)]
        said = [f"no bias can be seen: {'; '.join(reasons)}"]
    title = ", ".join(said)[:1].upper() + ", ".join(said)[1:]

    def draw(axes: Axes) -> None:
        for height, (_, _, rate) in enumerate(rows):
            axes.plot([rate.low, rate.high], [height] * 2, color=SERIES[0], alpha=0.45, lw=4)
            axes.plot(rate.share, height, "o", ms=7, color=SERIES[0])
        axes.axvline(0.5, color=INK, lw=1, ls=":")
        axes.annotate(
            "no bias", (0.5, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom"
        )
        axes.set_yticks(range(len(rows)), [f"{label}\n(n = {rate.n:,})" for label, _, rate in rows])
        axes.set(xlabel="share that won, 95 % Wilson interval", xlim=(0, 1))
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(False, axis="y")

    described = "; ".join(
        f"{label} {rate.share:.3f}, 95 % interval {rate.low:.3f} to {rate.high:.3f}, n {rate.n}"
        for label, _, rate in reversed(rows)
    )
    return draw_plot(title, f"{title}. {described}.", draw, 2.0)


def votes_per_annotator(counts: Mapping[str, int]) -> Plot:
    """How many judgements each annotator gave, the busiest first."""
    votes = sorted(counts.values(), reverse=True)
    total = sum(votes)
    half = sum(2 * sum_ < total for sum_ in accumulate(votes)) + 1
    title = f"{half} of {len(votes)} annotators gave half of the judgements"
    if votes[0] == votes[-1]:
        title = f"{len(votes)} annotators gave {votes[0]:,} judgements each"
    if len(votes) == 1:
        title = f"One annotator gave all {total:,} judgements"

    def draw(axes: Axes) -> None:
        axes.bar(range(1, len(votes) + 1), votes, width=0.8, color=SERIES[0])
        axes.set(xlabel="annotators, the busiest first", ylabel="judgements")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(False, axis="x")

    described = "; ".join(
        f"{printable(name)} {count}"
        for name, count in sorted(counts.items(), key=lambda item: -item[1])[:20]
    )
    return draw_plot(title, f"{title}. The busiest: {described}.", draw)


def _couples(agreement: Agreement) -> list[tuple[int, int, int, int]]:
    """(row, column, n, agreed) of the cells that two annotators share, in both halves."""
    return [
        (row, column, n, agreement.agreed[row][column])
        for row, counts in enumerate(agreement.n)
        for column, n in enumerate(counts)
        if n
    ]


def _height(rows: int) -> float:
    return max(1.6, 0.7 + ROW * rows)
