"""`align data inspect` and `align data build`: what SFT will see, before it sees it."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from align.data.tasks.diversity import diversity_of
from align.pipeline.config import RunConfig
from align.pipeline.data_overlap import feedback_records, overlap_report, print_overlap
from align.pipeline.data_page import NAMED, write_data_page
from align.pipeline.progress import note, section
from align.pipeline.run_directory import RunDirectory, locked, write_json
from align.pipeline.sft_data import built, built_aside, inputs_of, stored, tell
from align.pipeline.text_table import print_table
from align.policy.model import load_tokenizer

TEXT = "completion_ids"  # of text that nothing is asked about
NUMBERS = ("rows", "used", "drawn", "tokens", "share", "copies", "cut")
MOST_ROWS = 20  # of a table on the terminal; inspect.json has all


def build(config: RunConfig, run_dir: Path) -> None:
    """Write the rows, or say that they are there."""
    tokenizer = _tokenizer(config)
    directory = RunDirectory(run_dir)
    with locked(directory):
        note(f"{built(config, directory, tokenizer) / 'train.arrow'}")


def inspect(config: RunConfig, run_dir: Path, out: Path | None) -> None:
    """Print what is in the rows; with `out`, write `inspect.json` and `inspect.html` there too.

    Rows that are in the run directory are looked at; others are made for this and not kept.
    """
    tokenizer = _tokenizer(config)
    report = _report(config, run_dir, tokenizer, out)
    for source in report["sources"]:
        asked = [
            str(tokenizer.decode(one[TEXT if one["template_id"] == "text" else "prompt_ids"]))
            for one in source["examples"]
        ]
        source["diversity"] = vars(diversity_of(asked))
    report["overlap"] = overlap_report(config, run_dir, feedback_records(config))
    _print(report)
    print_overlap(report["overlap"])
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_data_page(out / "inspect.html", config.name, report, tokenizer)
        write_json(out / "inspect.json", report)
        note(f"{out / 'inspect.html'} and inspect.json")


def _tokenizer(config: RunConfig) -> PreTrainedTokenizerBase:
    return load_tokenizer(config.sft.model or config.model.path, config.model)


def _report(
    config: RunConfig, run_dir: Path, tokenizer: PreTrainedTokenizerBase, out: Path | None
) -> dict[str, Any]:
    rejected: Path | None = RunDirectory(run_dir).stage("sft") / "rejected.jsonl"
    report = stored(run_dir / "data", inputs_of(config, tokenizer))
    if report is None:
        rejected = out / "rejected.jsonl" if out else None
        report = built_aside(config, run_dir, tokenizer, rejected)
    tell(report, config, rejected)
    return report


def _print(report: dict[str, Any]) -> None:
    section(f"{report['rows']:,} rows to learn, {report['held_out']:,} held out")
    tokens = sum(source["tokens"] for source in report["sources"])
    print_table(
        ("source", *NUMBERS, "too long"),
        [
            (source["source"], *_numbers(source, tokens), f"{source['too_long']:,}")
            for source in report["sources"]
        ],
    )
    for name in NAMED:
        rows = [
            (value, source["source"], *_numbers(numbers, tokens))
            for source in report["sources"]
            for value, numbers in source[name].items()
        ]
        print_table((name, "source", *NUMBERS), rows[:MOST_ROWS])
        if len(rows) > MOST_ROWS:
            note(f"and {len(rows) - MOST_ROWS:,} more")
    _print_diversity(report)


def _numbers(of: dict[str, Any], tokens: int) -> tuple[str, ...]:
    """NUMBERS of a source, task, template or licence; `tokens` are those of all sources."""
    return (
        *(f"{of[name]:,}" for name in ("rows", "used", "draws", "tokens")),
        f"{of['tokens'] / max(tokens, 1):.1%}",
        f"{of['duplicates']:,}",
        f"{of['truncated']:,}",
    )


def _print_diversity(report: dict[str, Any]) -> None:
    print_table(
        ("wording of prompts", "distinct-1", "distinct-2", "1 - ROUGE-L"),
        [
            (
                source["source"],
                *(
                    f"{source['diversity'][name]:.3f}"
                    for name in ("distinct_1", "distinct_2", "dissimilarity")
                ),
            )
            for source in report["sources"]
        ],
    )
