"""Plots of the reward model alone. Each one says in its title what one sees."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from align.pipeline.plots import accuracy_by, reliability, risk_coverage
from align.pipeline.results import BestOfN, RewardEvaluation
from align.pipeline.svg import SERIES, Plot, draw_plot


def plots_of(evaluation: RewardEvaluation) -> list[Plot]:
    """Slices, calibration, abstention and over-optimisation, each where it is known."""
    drawn = [
        accuracy_by(what, slices)
        for what, slices in (
            ("feedback kind", evaluation.by_kind),
            ("criterion", evaluation.by_criterion),
            ("annotator", evaluation.by_annotator),
            ("agreement", evaluation.by_agreement),
            ("length", evaluation.by_length),
        )
        # One slice says no more than the accuracy of all.
        if len(slices) > 1 or (slices and what == "feedback kind")
    ]
    if evaluation.calibration:
        drawn.append(reliability(evaluation.calibration, evaluation.ece))
    if evaluation.risk_coverage:
        drawn.append(risk_coverage(evaluation.risk_coverage))
    if evaluation.best_of_n:
        drawn.append(over_optimisation(evaluation.best_of_n))
    return drawn


def over_optimisation(points: Sequence[BestOfN]) -> Plot:
    """The best of n answers by the reward model, and what a gold judge thinks of it.

    Each judge in the units of what n = 1 scores less: gains, drawn on axes of their own.
    """
    gold = [point.gold for point in points]
    most = max(gold)
    title = f"The best of {points[-1].n} is better than one answer by {gold[-1] - gold[0]:.2f}"
    if most > gold[-1] and most - gold[-1] > 0.05 * (most - gold[0]):
        best = points[gold.index(most)].n
        title = f"Over-optimised: the best of {best} is better than the best of {points[-1].n}"

    def draw(axes: Axes) -> None:
        kl = [point.kl for point in points]
        axes.plot(kl, gold, marker="o", color=SERIES[0])
        axes.set(xlabel="KL of best-of-n, nats an answer", ylabel="gold judge")
        other = axes.twinx()
        other.plot(kl, [point.proxy for point in points], marker="s", ls="--", color=SERIES[1])
        other.set_ylabel("reward model (dashed)")
        other.grid(False)
        for point in points:
            axes.annotate(
                f"{point.n}", (point.kl, point.gold), xytext=(0, 7), textcoords="offset points"
            )

    described = "; ".join(
        f"n {point.n}: reward model {point.proxy:.3f}, gold {point.gold:.3f}" for point in points
    )
    return draw_plot(title, f"{title}. {described}.", draw)


def learning_curve(pairs: Sequence[float], accuracy: Sequence[float]) -> Plot:
    """Held-out accuracy against the pairs seen so far, each for the first time."""
    title = (
        f"{accuracy[0]:.0%} right after {pairs[0]:.0f} pairs, "
        f"{accuracy[-1]:.0%} after {pairs[-1]:.0f}"
    )

    def draw(axes: Axes) -> None:
        axes.plot(pairs, accuracy, marker="o", ms=4, color=SERIES[0])
        axes.set(xlabel="pairs learnt from", ylabel="held-out accuracy")

    return draw_plot(title, f"Learning curve. {title}.", draw)
