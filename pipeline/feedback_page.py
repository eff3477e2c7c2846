"""One self-contained HTML page about raw feedback: its numbers, its plots, who judged how much."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.pipeline.page import UNKNOWN, Headline, percent, write_page
from align.pipeline.svg import Plot
from align.reward.feedback_statistics import FeedbackStatistics, Measured, Missing

LONGEST_TABLE = 20  # rows; the rest is one line


@dataclass(frozen=True)
class CountTable:
    """Records by the values of a field, with the share of each; `rest` says what is left out."""

    title: str
    rows: list[tuple[str, int, str]]
    rest: str


def write_feedback_page(
    path: Path,
    name: str,
    statistics: FeedbackStatistics,
    plots: Sequence[Plot],
    overlap: Mapping[str, Any] | None = None,
) -> None:
    """Write the page to `path`; `overlap` is a report of `data_overlap.py`, if there is one."""
    write_page(
        path,
        "feedback_report.html.jinja",
        name=name,
        headlines=_headlines(statistics),
        notes=(),
        first_heading="What people preferred, and how alike",
        plots=plots,
        second_heading="Records",
        tables=[
            _table("Kind", statistics.by_kind),
            _table("Criterion", statistics.by_criterion),
            _table("Source", statistics.by_source),
            _table("Annotators", statistics.by_annotator_kind),
            _table("Annotator", statistics.by_annotator),
        ],
        overlap=overlap,
    )


def _headlines(statistics: FeedbackStatistics) -> list[Headline]:
    people = len(statistics.by_annotator)
    headlines = [
        Headline("Records", f"{statistics.records:,}", f"on {statistics.prompts:,} prompts"),
        Headline("Annotators", f"{people:,}", _per_annotator(statistics.records, people)),
        _rate("Conflicts", statistics.conflicts, "of {n:,} times two judged the same"),
        _rate("Ties", statistics.ties, "of {n:,} pairs of answers"),
        _rate("Longer won", statistics.longer_won, "of {n:,} decided pairs"),
        _rate("First shown won", statistics.first_won, "of {n:,} decided comparisons"),
        _rate("Skipped", statistics.skips, "of {n:,} comparisons"),
        _rate("Gold", statistics.gold, "of {n:,} records test annotators"),
    ]
    for name, one in statistics.failures.items():
        headlines.append(_rate(name.capitalize(), one, "of {n:,} answers asked about"))
    if (seconds := statistics.duration_s) is not None:
        hint = f"per judgement; 80 % took {seconds.low:.3g} to {seconds.high:.3g} s"
        headlines.append(Headline("Median time", f"{seconds.median:.3g} s", hint))
    return headlines


def _rate(label: str, rate: Measured, hint: str) -> Headline:
    if isinstance(rate, Missing):
        return Headline(label, UNKNOWN, rate.reason)
    return Headline(label, percent(rate.share), hint.format(n=rate.n))


def _per_annotator(records: int, people: int) -> str:
    return f"{records / people:.3g} records each, on average" if people else "none"


def _table(title: str, counts: Mapping[str, int]) -> CountTable:
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [(name, count, percent(count / total)) for name, count in ordered[:LONGEST_TABLE]]
    left = ordered[LONGEST_TABLE:]
    rest = f"and {len(left)} more with {sum(count for _, count in left):,} records" if left else ""
    return CountTable(title, rows, rest)
