"""Plots keep what the numbers say, however long, short or broken the curves are."""

import math

import pytest

from align.pipeline.plots import (
    Curve,
    accuracy_by,
    over_steps,
    reliability,
    reward_against_kl,
    risk_coverage,
    stacked_time,
)
from align.pipeline.results import CalibrationBin, CoveragePoint, SliceAccuracy


def curve(label: str, values: list[float]) -> Curve:
    return Curve(label, [float(step) for step in range(1, len(values) + 1)], values)


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ([3.0, 2.0, 1.0], "Loss fell from 3 to 1"),
        ([1.0, math.nan, 2.5, math.inf], "Loss rose from 1 to 2.5"),
        ([0.5], "Loss stayed at 0.5"),
    ],
)
def test_the_title_says_how_the_curve_went(values: list[float], title: str) -> None:
    assert over_steps("Loss", "nats", [curve("loss", values)]).title == title


def test_a_long_curve_is_drawn_as_means_of_equal_stretches() -> None:
    values = [0.0] * 1200 + [1.0] * 1200
    plot = over_steps("Loss", "nats", [curve("loss", values)])
    assert plot.title == "Loss rose from 0 to 1"
    assert len(plot.svg) < 20_000


def test_labels_are_drawn_as_text_and_never_as_markup_or_formula() -> None:
    kinds = {"<b>$x_$": SliceAccuracy(n=10, accuracy=0.7, low=0.4, high=0.9)}
    svg = accuracy_by("feedback kind", kinds).svg
    assert "<b>" not in svg
    assert "&lt;b&gt;$x_$ (n = 10)" in svg


def test_the_smallest_of_many_parts_share_one_layer() -> None:
    parts = [curve(f"part{size}", [float(size), float(size)]) for size in range(1, 12)]
    plot = stacked_time(parts)
    assert plot.title == "A step takes 66 s, most of it part11"
    assert "part5 5 s, other 10 s" in plot.svg


def test_a_part_that_is_seldom_done_counts_by_its_share_of_all_steps() -> None:
    seldom = [4.0, math.nan, math.nan, math.nan]
    plot = stacked_time([curve("update", [2.0] * 4), curve("evaluation", seldom)])
    assert "update 2 s, evaluation 1 s" in plot.svg


def test_one_step_alone_is_drawn() -> None:
    assert "A step takes 3 s" in stacked_time([curve("rollout", [3.0])]).title


@pytest.mark.parametrize(
    ("confidence", "accuracy", "judgement"),
    [
        (0.9, 0.6, "Surer than it is right"),
        (0.6, 0.9, "Right more often than it is sure"),
        (0.7, 0.71, "About as sure as it is right"),
    ],
)
def test_calibration_is_judged_in_words(confidence: float, accuracy: float, judgement: str) -> None:
    bins = [CalibrationBin(confidence=confidence, accuracy=accuracy, n=50)]
    assert reliability(bins, None).title == judgement


def test_a_path_may_begin_and_end_where_nothing_is_finite() -> None:
    nan = math.nan
    plot = reward_against_kl([1, 2, 3, 4], [nan, 0.5, 1.0, nan], [nan, 0.1, 0.3, 0.4])
    assert plot.title == "Reward rose from 0.1 to 0.4 while KL rose from 0.5 to 1"
    assert "nan" not in plot.svg


def test_the_risk_is_said_of_all_pairs_and_of_the_surest_half() -> None:
    points = [CoveragePoint(coverage=i / 10, risk=i / 40) for i in range(1, 11)]
    plot = risk_coverage(points)
    assert plot.title == "On all pairs it is wrong 25% of the time, on the surest 50% of them 12%"
    assert "100%: 25.0%" in plot.svg
