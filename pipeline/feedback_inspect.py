"""`align feedback inspect`: who judged how much, and how: ties, skips, conflicts and biases.

With `--config F` that names instructions, prompts or evaluation sets, also what these share.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from align.pipeline.data_overlap import overlap_report, print_overlap
from align.pipeline.feedback_sources import Asked, read
from align.pipeline.progress import note, section
from align.pipeline.run_directory import write_json
from align.pipeline.text_table import print_table, rate
from align.reward.feedback_statistics import FeedbackStatistics, statistics_of

MOST_ROWS = 20  # of a table on the terminal; inspect.json has all


def inspect(asked: Asked, out: Path | None) -> None:
    """Print the statistics; with `out`, write `inspect.json` and `inspect.html` there too."""
    records = read(asked, out, out and out / "rejected.jsonl")
    statistics = statistics_of(records)
    _print(statistics)
    config = asked.config
    named = config.data.instructions or config.data.prompts or config.data.evaluation
    overlap = overlap_report(config, Path("runs") / config.name, records) if named else None
    if overlap is not None:
        section("Overlap of what the stages read")
        print_overlap(overlap)
    if out is not None:
        # matplotlib takes a second, and only the page needs it.
        from align.pipeline.feedback_page import write_feedback_page
        from align.pipeline.feedback_plots import agreement_matrix, biases, votes_per_annotator

        plots = [
            biases(statistics.longer_won, statistics.first_won),
            votes_per_annotator(statistics.by_annotator),
            agreement_matrix(statistics.agreement),
        ]
        write_feedback_page(out / "inspect.html", asked.name, statistics, plots, overlap)
        found = asdict(statistics) | ({} if overlap is None else {"overlap": overlap})
        write_json(out / "inspect.json", found)
        note(f"{out / 'inspect.html'} and inspect.json")


def _print(statistics: FeedbackStatistics) -> None:
    section(f"{statistics.records:,} records on {statistics.prompts:,} prompts")
    for name in ("kind", "criterion", "source", "annotator_kind", "annotator"):
        _print_counts(name.replace("_", " "), asdict(statistics)[f"by_{name}"])
    section("How people judged")
    print_table(
        ("rate", "share and 95 % interval"),
        [
            ("ties", rate(statistics.ties)),
            ("skipped", rate(statistics.skips)),
            ("conflicts", rate(statistics.conflicts)),
            ("longer answer won", rate(statistics.longer_won)),
            ("shown first won", rate(statistics.first_won)),
            ("gold", rate(statistics.gold)),
            *((f"answers found {name}", rate(one)) for name, one in statistics.failures.items()),
        ],
    )


def _print_counts(name: str, counts: Mapping[str, int]) -> None:
    total = sum(counts.values())
    rows = [(value, f"{n:,}", f"{n / total:.1%}") for value, n in list(counts.items())[:MOST_ROWS]]
    print_table((name, "records", "share"), rows)
    if len(counts) > MOST_ROWS:
        note(f"and {len(counts) - MOST_ROWS:,} more")
