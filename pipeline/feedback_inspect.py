"""`align feedback inspect`: who judged how much, and how: ties, skips, conflicts and biases.

With `--config F` that names instructions or prompts, also what its stages share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from align.data.exchanges import Reading
from align.data.instructions import instructions_of, prompts_of
from align.data.messages import Message, cluster_id_of
from align.data.overlap import WORDS, Contamination, Overlap, Use, contamination, overlaps
from align.data.rejects import Rejects
from align.data.schemas import Record
from align.data.splits import split_of
from align.pipeline.config import RunConfig
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
    stages = stages_of(asked.config, records)
    shared, seen = overlaps(stages), contamination(stages)
    notes = _overlap_lines(shared, seen) if len(stages) > 1 else []
    if notes:
        section("Prompts of the stages")
    for line in notes:
        note(line)
    if out is not None:
        # matplotlib takes a second, and only the page needs it.
        from align.pipeline.feedback_page import write_feedback_page
        from align.pipeline.feedback_plots import agreement_matrix, biases, votes_per_annotator

        plots = [
            biases(statistics.longer_won, statistics.first_won),
            votes_per_annotator(statistics.by_annotator),
            agreement_matrix(statistics.agreement),
        ]
        write_feedback_page(out / "inspect.html", asked.name, statistics, plots, notes)
        found = {
            "overlaps": [asdict(one) for one in shared],
            "contamination": {name: asdict(one) for name, one in seen.items()},
        }
        write_json(out / "inspect.json", asdict(statistics) | found)
        note(f"{out / 'inspect.html'} and inspect.json")


def stages_of(config: RunConfig, records: Sequence[Record]) -> dict[str, list[Use]]:
    """The prompts that each stage of the config uses, and whether it holds them out.

    Bad rows of instructions and prompts are left out here; their stages tell of them.
    """
    data = config.data

    def use(prompt: list[Message], answers: Sequence[str], cluster: str | None = None) -> Use:
        split = split_of(cluster or cluster_id_of(prompt), data.held_out)
        return Use(prompt, answers, split == "test")

    stages = {
        "the reward model": [
            use(one["prompt"], [t[-1]["content"] for t in one["completions"]], one["cluster_id"])
            for one in records
        ]
    }
    if data.instructions:
        reading = Reading(config.seed)
        examples = [
            x for s in data.instructions for x in instructions_of(s, Rejects(None), reading)
        ]
        stages["SFT"] = [
            use(one.prompt, [turn["content"] for turn in one.completion or []], one.group)
            for one in examples
        ]
    if data.prompts:
        prompts = [x for s in data.prompts for x in prompts_of(s, Rejects(None), config.seed)]
        stages["PPO"] = [use(one.prompt, [], one.group) for one in prompts]
    return stages


def _overlap_lines(shared: list[Overlap], seen: dict[str, Contamination]) -> list[str]:
    lines = [
        f"{one.first} and {one.second} share {one.shared:,} prompts, {one.leaked:,} of them learnt "
        "by one and held out by the other"
        for one in shared
    ]
    return lines + [
        f"of {one.long:,} held-out prompts of {name} with {WORDS} words or more, "
        f"{one.contaminated:,} have {WORDS} in a row that some stage learns from"
        for name, one in seen.items()
    ]


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
