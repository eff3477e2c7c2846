"""Which prompts the stages and the evaluation sets share, and what of held-out rows training reads.

Bad rows are left out here; the stages tell of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from align.data.exchanges import Reading
from align.data.feedback import feedback_batches
from align.data.instruction_config import InstructionSource
from align.data.instructions import instructions_of, prompts_of
from align.data.messages import Message, cluster_id_of
from align.data.overlap import RUN, contamination, overlaps
from align.data.rejects import Rejects
from align.data.schemas import Record
from align.data.splits import Split, split_of
from align.data.text_hashes import content_text, prompt_text
from align.pipeline.config import RunConfig
from align.pipeline.instruction_encode import near_rows, split_function
from align.pipeline.text_table import print_table

HELD_OUT = "held out"
EVALUATION = "evaluation"
MOST_TEXTS = 200_000
"""Prompts, and runs of held-out words, are compared in memory; of more rows, so many first ones of
each set."""


class Use(NamedTuple):
    """A row as a stage uses it."""

    prompt: str
    content: str
    """What a stage reads of it; of a held-out row, what is looked for in that."""
    held_out: bool


def feedback_records(config: RunConfig) -> Iterator[Record]:
    """The valid records of `data.feedback`."""
    for batch in feedback_batches(config.data.feedback, Rejects(None)):
        yield from batch.to_pylist()


def overlap_report(config: RunConfig, run_dir: Path, records: Iterable[Record]) -> dict[str, Any]:
    """`prompts` of every two sets that are the same or near, and `contaminated` held-out rows.

    The sets are what SFT, the reward model (from `records`) and PPO learn and hold out, and those
    of `data.evaluation`. `run_dir` may have the splits of an earlier build.
    """
    judged, asked = [_judged(one, config) for one in records], list(_prompts(config))
    frozen = run_dir / "data" / "splits.jsonl"
    close = near_rows(config.data, config.mixture.instructions, config.seed, frozen)
    split = split_function(close, config.data.held_out)
    stages: dict[str, Callable[[], Iterable[Use]]] = {
        "SFT": lambda: _instructions(config, split),  # read anew each time, and not held
        "reward model": lambda: judged,
        "PPO": lambda: asked,
    }
    learnt = {name: list(_learnt_prompts(uses())) for name, uses in stages.items()}
    tested = {f"{name} {HELD_OUT}": uses for name, uses in stages.items()} | _evaluation(config)
    asked_there = {name: [use.prompt for use in _held_out(uses())] for name, uses in tested.items()}
    shared = overlaps(
        {name: prompts for name, prompts in learnt.items() if prompts},
        {name: prompts for name, prompts in asked_there.items() if prompts},
    )
    seen = contamination(
        (use.content for uses in stages.values() for use in uses() if not use.held_out),
        {name: (use.content for use in _held_out(uses())) for name, uses in tested.items()},
    )
    return {
        "run": RUN,
        "prompts": [asdict(one) for one in shared],
        "contaminated": {name: asdict(one) for name, one in seen.items() if one.texts},
    }


def print_overlap(report: Mapping[str, Any]) -> None:
    """The two tables of a report."""
    print_table(
        ("prompts of", "and of", "different", "same", "same or near"),
        [
            (one["first"], one["second"], *(f"{one[n]:,}" for n in ("texts", "same", "near")))
            for one in report["prompts"]
        ],
    )
    print_table(
        ("held-out set", "rows", f"{report['run']} words or more", "found in training"),
        [
            (name, *(f"{count[n]:,}" for n in ("texts", "long", "found")))
            for name, count in report["contaminated"].items()
        ],
    )


def _instructions(config: RunConfig, split: Callable[[str], Split]) -> Iterator[Use]:
    for source in config.data.instructions:
        bare = source.without_demonstrations()
        for row in instructions_of(bare, Rejects(None), Reading(config.seed)):
            yield Use(prompt_text(row), content_text(row), split(row.group) == "test")


def _judged(record: Record, config: RunConfig) -> Use:
    """A held-out record is looked for by its prompt: answers to other prompts may say the same."""
    prompt = _text(record["prompt"])
    cluster = record["cluster_id"] or cluster_id_of(record["prompt"])
    if split_of(cluster, config.data.held_out) == "test":
        return Use(prompt, prompt, held_out=True)
    answers = (_text(completion) for completion in record["completions"])
    return Use(prompt, "\n".join([prompt, *answers]), held_out=False)


def _prompts(config: RunConfig) -> Iterator[Use]:
    """The demo's held-out prompts are others, which no config names."""
    for source in config.data.prompts:
        for row in prompts_of(source, Rejects(None), config.seed):
            split = split_of(row.group, config.data.held_out)
            text = prompt_text(row)
            yield Use(text, text, split == "test" and source.format != "demo")


def _evaluation(config: RunConfig) -> dict[str, Callable[[], Iterable[Use]]]:
    return {
        f"{EVALUATION} {source.named}": partial(_evaluated, source, config.seed)
        for source in config.data.evaluation
    }


def _evaluated(source: InstructionSource, seed: int) -> Iterator[Use]:
    for row in prompts_of(source, Rejects(None), seed):
        yield Use(prompt_text(row), content_text(row), held_out=True)


def _learnt_prompts(uses: Iterable[Use]) -> Iterator[str]:
    return islice((use.prompt for use in uses if not use.held_out), MOST_TEXTS)


def _held_out(uses: Iterable[Use]) -> Iterator[Use]:
    return islice((use for use in uses if use.held_out), MOST_TEXTS)


def _text(messages: Iterable[Message]) -> str:
    return "\n".join(message["content"] for message in messages)
