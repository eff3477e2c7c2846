"""Plots of the report. Each one says in its title what one sees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from align.pipeline.results import CalibrationBin, CoveragePoint, SliceAccuracy
from align.pipeline.svg import INK, SERIES, Plot, draw_plot

MAX_SLICES = 12

MAX_POINTS = 240
"""A longer curve is drawn as the means of so many equal stretches."""


@dataclass(frozen=True)
class Curve:
    """Values over steps; a value that is not finite leaves a gap."""

    label: str
    steps: list[float]
    values: list[float]


def over_steps(what: str, unit: str, curves: Sequence[Curve]) -> Plot:
    """Curves over the steps of a stage; the title follows the first one."""
    thinned = [_thin(curve) for curve in curves]
    title = _from_to(what, thinned[0].values)

    def draw(axes: Axes) -> None:
        for curve, colour in zip(thinned, SERIES, strict=False):
            marker = "o" if len(curve.steps) <= 40 else ""
            axes.plot(
                curve.steps, curve.values, marker=marker, ms=3, color=colour, label=curve.label
            )
        axes.set(xlabel="step", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        if len(thinned) > 1:
            _legend_above(axes)

    others = "; ".join(_from_to(curve.label, curve.values) for curve in thinned[1:])
    return draw_plot(title, f"{title} ({unit}). {others}", draw)


def stacked_time(parts: Sequence[Curve]) -> Plot:
    """Seconds per step, one layer for each part of a step; the smallest parts may share one.

    A part that is not finite at a step was not done in it.
    """
    complete = [Curve(p.label, p.steps, [*map(_or_zero, p.values)]) for p in parts]
    layers = _largest_layers([_thin(part) for part in complete])
    means = {layer.label: _mean(layer.values) for layer in layers}
    title = f"A step takes {sum(means.values()):.2g} s, most of it {layers[0].label}"

    def draw(axes: Axes) -> None:
        heights = [layer.values for layer in layers]
        steps = layers[0].steps
        if len(steps) == 1:  # one step alone has no area: it is drawn one step wide
            steps, heights = [steps[0] - 0.5, steps[0] + 0.5], [2 * height for height in heights]
        axes.stackplot(steps, heights, labels=list(means), colors=SERIES, alpha=0.85)
        axes.set(xlabel="step", ylabel="seconds per step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        _legend_above(axes)

    described = ", ".join(f"{label} {mean:.2g} s" for label, mean in means.items())
    return draw_plot(title, f"{title}. On average: {described}.", draw)


def _largest_layers(parts: Sequence[Curve]) -> list[Curve]:
    """Parts by falling mean, at most as many as there are colours."""
    ordered = sorted(parts, key=lambda part: -_mean(part.values))
    if len(ordered) <= len(SERIES):
        return ordered
    kept, rest = ordered[: len(SERIES) - 1], ordered[len(SERIES) - 1 :]
    sums = [sum(column) for column in zip(*(part.values for part in rest), strict=True)]
    return [*kept, Curve("other", rest[0].steps, sums)]


def reward_against_kl(steps: list[float], kl: list[float], reward: list[float]) -> Plot:
    """The path of PPO: how much reward it found at what distance from the reference."""
    thinned = _thin(Curve("KL", steps, kl))
    reward = _thin(Curve("reward", steps, reward)).values
    steps, kl = thinned.steps, thinned.values
    title = f"{_from_to('Reward', reward)} while KL {_change(kl)}"

    def draw(axes: Axes) -> None:
        count = len(kl)
        axes.plot(kl, reward, color=SERIES[0], lw=0.8, alpha=0.35)
        for eighth in range(8):  # later steps are drawn stronger
            part = slice(eighth * count // 8, (eighth + 1) * count // 8)
            axes.plot(
                kl[part], reward[part], "o", ms=4, mew=0, color=SERIES[0], alpha=(eighth + 1) / 8
            )
        for index, above in ((0, -15), (count - 1, 7)):
            axes.annotate(
                f"step {steps[index]:.0f}",
                (kl[index], reward[index]),
                xytext=(0, above),
                textcoords="offset points",
                ha="center",
            )
        axes.set(xlabel="KL from the reference (nats per answer)", ylabel="score (reward)")
        axes.margins(0.08, 0.16)

    return draw_plot(title, f"{title}. One dot per step, later steps stronger.", draw)


def accuracy_by(what: str, slices: dict[str, SliceAccuracy]) -> Plot:
    """Held-out accuracy on each slice of the pairs with its interval; the largest `MAX_SLICES`."""
    largest = sorted(slices.items(), key=lambda row: -row[1].n)[:MAX_SLICES]
    rows = sorted(largest, key=lambda row: row[1].accuracy)
    best, worst = rows[-1], rows[0]
    title = f"By {what}: right on {best[1].accuracy:.0%} of {best[0]}"
    if best != worst:
        title += f", {worst[1].accuracy:.0%} of {worst[0]}"

    def draw(axes: Axes) -> None:
        for height, (_, kind) in enumerate(rows):
            axes.plot([kind.low, kind.high], [height, height], color=SERIES[0], alpha=0.45, lw=4)
            axes.plot(kind.accuracy, height, "o", ms=7, color=SERIES[0])
        axes.axvline(0.5, color=INK, lw=1, ls=":")
        axes.annotate(
            "chance", (0.5, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom"
        )
        axes.set_yticks(range(len(rows)), [f"{name} (n = {kind.n})" for name, kind in rows])
        axes.set(xlabel="accuracy, 95 % Wilson interval", xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4))
        axes.grid(False, axis="y")

    described = "; ".join(
        f"{name} {kind.accuracy:.3f}, 95 % interval {kind.low:.3f} to {kind.high:.3f}, n {kind.n}"
        for name, kind in reversed(rows)
    )
    return draw_plot(title, f"Held-out accuracy by {what}. {described}.", draw)


def reliability(bins: Sequence[CalibrationBin], ece: float | None) -> Plot:
    """How often the reward model is right against how sure it is."""
    pairs = sum(part.n for part in bins)
    gap = sum(part.n * (part.confidence - part.accuracy) for part in bins) / max(pairs, 1)
    judgement = "About as sure as it is right"
    if abs(gap) > 0.05:
        judgement = "Surer than it is right" if gap > 0 else "Right more often than it is sure"
    title = judgement if ece is None else f"{judgement}: calibration error {ece:.3f}"

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, lw=1, ls=":")
        axes.plot(
            [part.confidence for part in bins], [part.accuracy for part in bins], color=SERIES[0]
        )
        for part in bins:
            size = 4 + 12 * math.sqrt(part.n / max(pairs, 1))
            axes.plot(part.confidence, part.accuracy, "o", ms=size, mew=0, color=SERIES[0])
        lowest = min(0.5, *(min(part.confidence, part.accuracy) for part in bins)) - 0.04
        axes.set(xlim=(lowest, 1.04), ylim=(lowest, 1.04))
        axes.set(xlabel="predicted probability", ylabel="share that was right")

    described = "; ".join(
        f"predicted {part.confidence:.2f}, right {part.accuracy:.2f}, n {part.n}" for part in bins
    )
    return draw_plot(title, f"{title}. {described}. The dotted line is perfect calibration.", draw)


def risk_coverage(points: Sequence[CoveragePoint]) -> Plot:
    """How often the reward model is wrong on the pairs of which it is surest."""
    half = points[len(points) // 2 - 1]
    title = (
        f"On all pairs it is wrong {points[-1].risk:.0%} of the time, on the surest "
        f"{half.coverage:.0%} of them {half.risk:.0%}"
    )

    def draw(axes: Axes) -> None:
        coverage = [point.coverage for point in points]
        axes.plot(coverage, [point.risk for point in points], "o-", ms=4, color=SERIES[0])
        axes.set(xlim=(0, 1.04), xlabel="share of pairs, the surest first")
        axes.set_ylabel("share that was wrong")
        axes.set_ylim(bottom=0)

    described = "; ".join(f"{point.coverage:.0%}: {point.risk:.1%}" for point in points)
    return draw_plot(title, f"{title}. {described}.", draw)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0, handlelength=1.2)


def _thin(curve: Curve) -> Curve:
    count = len(curve.steps)
    finite = [value if math.isfinite(value) else math.nan for value in curve.values]
    if count <= MAX_POINTS:
        return Curve(curve.label, curve.steps, finite)
    cuts = [part * count // MAX_POINTS for part in range(MAX_POINTS + 1)]
    stretches = [slice(start, end) for start, end in pairwise(cuts)]
    return Curve(
        curve.label,
        [_mean(curve.steps[stretch]) for stretch in stretches],
        [_mean(finite[stretch]) for stretch in stretches],
    )


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _from_to(what: str, values: Sequence[float]) -> str:
    return f"{what} {_change(values)}"


def _change(values: Sequence[float]) -> str:
    """How a curve went, in words; its ends are the first and last finite values."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "was never finite"
    first, last = f"{finite[0]:.3g}", f"{finite[-1]:.3g}"
    if first == last:
        return f"stayed at {last}"
    return f"{'rose' if finite[-1] > finite[0] else 'fell'} from {first} to {last}"
