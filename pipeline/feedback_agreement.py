"""`align feedback agreement`: how far annotators can be trusted, and how good the players are."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from align.data.errors import UserError
from align.data.schemas import ANNOTATOR, Record, write_table
from align.pipeline.feedback_guidance import print_feedback_log, print_guidelines
from align.pipeline.feedback_sources import Asked, read
from align.pipeline.progress import note, section
from align.pipeline.run_directory import write_json
from align.pipeline.text_table import UNKNOWN, number, print_table
from align.reward.annotator_report import (
    NO_MAJORITY,
    AnnotatorLine,
    AnnotatorReport,
    PoolFigures,
    report_on,
)
from align.reward.annotators.agreement import Statistic
from align.reward.annotators.pools import BAR
from align.reward.player_ratings import NEVER_MET, Rating, Ratings, ratings_of
from align.reward.ratings.outcomes import TieModel

POOL_LABELS = {
    "observed": "two votes agree",
    "unanimity": "all votes agree",
    "cohen": "Cohen's kappa",
    "cohen_weighted": "Cohen's kappa, weighted",
    "fleiss": "Fleiss' kappa",
    "krippendorff_nominal": "Krippendorff's alpha, nominal",
    "krippendorff_ordinal": "Krippendorff's alpha, ordinal",
}


def agreement(
    asked: Asked, out: Path | None, ties: TieModel, next_battles: int, gold_by: Sequence[str]
) -> None:
    """Print the tables; with `out`, write `agreement.json`, `annotators.parquet`, `agreement.html`
    and, where there is something to put into them, `members.parquet` (the pool of super raters),
    `feedback-log.jsonl` and `relabel.jsonl` there too.

    Raises: UserError where no record says which of two answers is better.
    """
    records = read(asked, out, out and out / "rejected.jsonl")
    _check_gold(records, gold_by)
    report = report_on(records, asked.config.feedback, gold_by)
    if not report.pool.votes:
        raise UserError(
            f"{asked.name}: nobody says of two answers which one is better, so nobody can agree"
        )
    ratings = ratings_of(records, ties, next_battles)
    _print_pool(report.pool)
    _print_annotators(report.annotators)
    if gold_by:
        _print_gold(report)
        print_feedback_log(records, gold_by, out)
    if versions := asked.config.feedback.guidelines:
        print_guidelines(records, versions, out)
    for criterion, found in ratings.items():
        _print_ratings(criterion, found)
    if out is not None:
        from align.pipeline.agreement_page import write_agreement_page

        write_agreement_page(out / "agreement.html", asked.name, report, ratings, records)
        write_table(out / "annotators.parquet", report.rows, ANNOTATOR)
        if report.members:
            write_table(out / "members.parquet", report.members, ANNOTATOR)
            note(f"{out / 'members.parquet'} is the pool of super raters, for feedback.annotators")
        write_json(out / "agreement.json", _plain(report, ratings))
        note(f"{out / 'agreement.html'}, agreement.json and annotators.parquet")


def _check_gold(records: Sequence[Record], gold_by: Sequence[str]) -> None:
    known = {one["annotator_id"] for one in records if one["gold"]}
    for name in gold_by:
        if name not in known:
            raise UserError(f"--gold-by {name}: judged no record that is `gold: true`")
    if known and not gold_by:
        note("some records are gold: with --gold-by ANNOTATOR, annotators are measured by them")


def _plain(report: AnnotatorReport, ratings: dict[str, Ratings]) -> dict[str, object]:
    return {
        "pool": asdict(report.pool),
        "gold_items": report.gold_items,
        "annotators": [asdict(line) for line in report.annotators],
        "ratings": {name: asdict(found) for name, found in ratings.items()},
    }


def _print_pool(pool: PoolFigures) -> None:
    section(f"{pool.annotators:,} annotators, {pool.votes:,} votes on {pool.items:,} items")
    rows = [
        (label, number(one.value), f"{one.n:,}", one.reason or "")
        for name, label in POOL_LABELS.items()
        for one in [getattr(pool, name)]
        if isinstance(one, Statistic)
    ]
    print_table(("of two answers: better, worse or tie", "", "items", ""), rows)
    same, items = pool.majority.same, pool.majority.items
    compared = f"the majority agree on {same:,} of {items:,} items that have one"
    note(f"Dawid-Skene and {compared}" if items else f"Dawid-Skene has no measure: {NO_MAJORITY}")


def _print_annotators(lines: Sequence[AnnotatorLine]) -> None:
    section("Annotators, the most accurate first")
    header = ("annotator", "judged", "agrees with others", "of", "accuracy (Dawid-Skene)")
    rows = []
    for line in lines:
        others = (number(line.with_others.value), f"{line.with_others.n:,}")
        rows.append((line.marked, f"{line.judgements:,}", *others, number(line.accuracy)))
    print_table(header, rows)


def _print_gold(report: AnnotatorReport) -> None:
    section("On gold items, by the lower end of the 95 % interval")
    marked = {line.annotator_id: line.marked for line in report.annotators}
    rows = [
        (
            marked[one.annotator_id],
            f"{one.agreement.n:,}",
            number(one.agreement.accuracy),
            number(one.low),
            number(one.kappa.value),
            ", ".join(
                _stay(row) for row in report.members if row["annotator_id"] == one.annotator_id
            )
            or UNKNOWN,
        )
        for one in report.on_gold
        if one.agreement
    ]
    print_table(("annotator", "items", "agrees", "at least", "kappa", "super rater"), rows)
    note(
        f"super raters: people from the day their lower end reached {BAR}, until they failed again"
    )


def _stay(row: Record) -> str:
    until = row["qualified_to"]
    return f"{row['qualified_from']:%Y-%m-%d} to {f'{until:%Y-%m-%d}' if until else 'now'}"


def _print_ratings(criterion: str, found: Ratings) -> None:
    section(f"Ratings ({criterion}): {found.battles:,} battles, {found.annotators:,} annotators")
    if len(found.groups) > 1:
        note(NEVER_MET.format(count=len(found.groups)))
    for place, players in enumerate(found.groups, start=1):
        if len(found.groups) > 1:
            section(f"Group {place} of {len(found.groups)}")
        _print_players(players)
    drawn = "annotators" if found.by_annotator else "votes: too few annotators to stand for others"
    average = "the average of each group" if len(found.groups) > 1 else "the average"
    note(f"ties: {found.ties}; 1000 is {average}; intervals by bootstrap over {drawn}")
    note("no interval ends nearer than 1.96 standard errors: votes may be alike by chance")
    if found.even_tie is not None:
        note(f"two equal players tie in {found.even_tie:.0%} of their battles")
    if found.position_effect is not None:
        note(f"being shown first is worth {round(found.position_effect):+d} Elo points")
    if found.note:
        note(found.note)
    if found.next_battles:
        section(f"Who should meet next ({criterion}), the most telling battle first")
        print_table(("player", "and"), found.next_battles, names=2)


def _print_players(players: Sequence[Rating]) -> None:
    rows = [
        (
            one.player,
            f"{one.battles:,}",
            f"{one.elo:.0f}",
            f"{one.low:.0f} to {one.high:.0f}",
            f"{one.online:.0f}",
        )
        for one in players
    ]
    print_table(("player", "battles", "Elo", "95 % interval", "online Elo"), rows)
