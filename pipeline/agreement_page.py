"""One self-contained HTML page about annotators: ratings of players, who agrees with whom."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from align.data.schemas import Record
from align.pipeline.feedback_page import CountTable
from align.pipeline.feedback_plots import (
    RatingInterval,
    agreement_matrix,
    rating_intervals,
    votes_per_annotator,
)
from align.pipeline.page import UNKNOWN, Headline, percent, write_page
from align.pipeline.svg import Plot
from align.reward.annotator_report import (
    NO_MAJORITY,
    AnnotatorLine,
    AnnotatorReport,
    PoolFigures,
)
from align.reward.annotators.agreement import Statistic
from align.reward.feedback_statistics import agreement_of
from align.reward.player_ratings import NEVER_MET, Ratings


def write_agreement_page(
    path: Path,
    name: str,
    report: AnnotatorReport,
    ratings: Mapping[str, Ratings],
    records: Sequence[Record],
) -> None:
    """Write the page to `path`."""
    judged = {line.annotator_id: line.judgements for line in report.annotators}
    plots = [plot for name, found in ratings.items() for plot in _rating_plots(name, found)]
    names = {line.annotator_id: line.marked for line in report.annotators}
    couples = agreement_of(records)
    couples = replace(couples, annotators=[names.get(name, name) for name in couples.annotators])
    write_page(
        path,
        "feedback_report.html.jinja",
        name=name,
        headlines=_headlines(report.pool),
        notes=_notes(ratings),
        first_heading="Who is better, and how far annotators agree",
        plots=[*plots, agreement_matrix(couples), votes_per_annotator(judged)],
        second_heading="Annotators",
        tables=_tables(report.annotators),
        overlap=None,
    )


def _notes(ratings: Mapping[str, Ratings]) -> list[str]:
    notes = []
    for criterion, found in ratings.items():
        if len(found.groups) > 1:
            notes.append(f"{criterion}: {NEVER_MET.format(count=len(found.groups))}")
        if found.note:
            notes.append(found.note)
    return notes


def _rating_plots(criterion: str, found: Ratings) -> Iterator[Plot]:
    """One for the players of each group: those of two groups have no common scale."""
    for number, players in enumerate(found.groups, start=1):
        intervals = [RatingInterval(one.player, one.elo, one.low, one.high) for one in players]
        group = f", group {number} of {len(found.groups)}" if len(found.groups) > 1 else ""
        yield rating_intervals(intervals, f"Elo by {criterion}{group}")


def _headlines(pool: PoolFigures) -> list[Headline]:
    majority = pool.majority
    return [
        Headline("Annotators", f"{pool.annotators:,}", f"{pool.votes:,} votes"),
        Headline("Items", f"{pool.items:,}", "two answers by one criterion"),
        _share("Two votes agree", pool.observed, "of those on items judged twice"),
        _share("All votes agree", pool.unanimity, "of {n:,} items judged twice or more"),
        _coefficient("Fleiss' kappa", pool.fleiss),
        _coefficient("Krippendorff's alpha", pool.krippendorff_nominal),
        Headline(
            "Dawid-Skene",
            percent(majority.same / majority.items if majority.items else None),
            f"agrees with the majority, of {majority.items:,} items that have one"
            if majority.items
            else NO_MAJORITY,
        ),
    ]


def _share(label: str, one: Statistic, hint: str) -> Headline:
    return Headline(label, percent(one.value), one.reason or hint.format(n=one.n))


def _coefficient(label: str, one: Statistic) -> Headline:
    value = UNKNOWN if one.value is None else f"{one.value:.3f}"
    return Headline(label, value, one.reason or "1 is perfect, 0 is chance")


def _tables(lines: Sequence[AnnotatorLine]) -> list[CountTable]:
    accuracy = [_row(line, line.judgements, line.accuracy) for line in lines]
    others = [_row(line, line.with_others.n, line.with_others.value) for line in lines]
    tables = [
        CountTable("Judgements, and accuracy by Dawid-Skene", accuracy, ""),
        CountTable("Votes by others, and agreement with them", others, ""),
    ]
    known = [(line, line.gold) for line in lines if line.gold]
    if known:
        gold = [_row(line, share.n, share.low) for line, share in known]
        tables.append(CountTable("Gold items, and agreement of at least", gold, ""))
    return tables


def _row(line: AnnotatorLine, n: int, share: float | None) -> tuple[str, int, str]:
    return line.marked, n, percent(share)
