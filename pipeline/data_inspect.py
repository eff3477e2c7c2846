"""`align data inspect` and `align data build`: what SFT will see, before it sees it."""

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from align.data.tasks.diversity import diversity_of
from align.pipeline.config import RunConfig
from align.pipeline.data_overlap import feedback_records, overlap_report, print_overlap
from align.pipeline.data_page import write_data_page
from align.pipeline.progress import note, section
from align.pipeline.run_directory import RunDirectory, locked, write_json
from align.pipeline.sft_data import built, inputs_of
from align.pipeline.text_table import print_table
from align.policy.model import load_tokenizer

TEXT = "completion_ids"  # of text that nothing is asked about
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
    report = _report(config, run_dir, tokenizer)
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


def _report(config: RunConfig, run_dir: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    stored = run_dir / "data" / "build.json"
    if stored.is_file():
        report: dict[str, Any] = json.loads(stored.read_bytes())
        if report["made_from"] == inputs_of(config, tokenizer):
            return report
    with tempfile.TemporaryDirectory() as folder:
        made = built(config, RunDirectory(Path(folder)), tokenizer)
        fresh: dict[str, Any] = json.loads((made / "build.json").read_bytes())
        return fresh


def _print(report: dict[str, Any]) -> None:
    section(f"{report['rows']:,} rows to learn, {report['held_out']:,} held out")
    tokens = sum(source["tokens"] for source in report["sources"])
    print_table(
        ("source", "rows", "used", "drawn", "tokens", "share", "copies", "cut", "too long"),
        [
            (
                source["source"],
                f"{source['rows']:,}",
                f"{source['used']:,}",
                f"{source['draws']:,}",
                f"{source['tokens']:,}",
                f"{source['tokens'] / max(tokens, 1):.1%}",
                f"{source['duplicates']:,}",
                f"{source['truncated']:,}",
                f"{source['too_long']:,}",
            )
            for source in report["sources"]
        ],
    )
    for name in ("tasks", "templates", "licenses"):
        rows = [
            (value, source["source"], f"{count:,}", f"{count / max(source['used'], 1):.1%}")
            for source in report["sources"]
            for value, count in source[name].items()
        ]
        print_table((name, "source", "rows used", "share"), rows[:MOST_ROWS])
        if len(rows) > MOST_ROWS:
            note(f"and {len(rows) - MOST_ROWS:,} more")
    _print_diversity(report)


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
