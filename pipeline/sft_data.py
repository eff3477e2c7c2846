"""What SFT learns and is evaluated on, built once and used again while nothing of it has changed.

`RUN_DIR/data/build.json` says what the Arrow files beside it were made from: the settings, the
tokenizer and the hash of every input file.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from align.data.chat import Encoded
from align.data.errors import UserError
from align.data.instruction_config import InstructionSource
from align.data.messages import sha256_of
from align.data.rejects import Rejects
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.instruction_build import (
    check_something_is_left,
    cut_rows,
    held_out_rows,
    mixed,
    write_rows,
)
from align.pipeline.instruction_encode import encoded_sources
from align.pipeline.instruction_statistics import statistics_of
from align.pipeline.progress import note
from align.pipeline.run_directory import RunDirectory, write_json

FORMAT = 3
"""Of the files; one more whenever they are made differently."""


def read_splits(
    config: RunConfig, directory: RunDirectory, tokenizer: PreTrainedTokenizerBase
) -> tuple[Dataset, dict[str, list[Encoded]]]:
    """Training rows (input_ids, labels) and held-out examples by source; on all ranks."""
    folder: Path = ranks.on_main(lambda: built(config, directory, tokenizer))
    # Rows without a mixture are no more than a person wrote; others stay on the disk.
    in_memory = config.mixture.instructions is None
    train = Dataset.from_file(str(folder / "train.arrow"), in_memory=in_memory)
    held_out: dict[str, list[Encoded]] = {}
    for row in Dataset.from_file(str(folder / "held_out.arrow"), in_memory=True):
        held_out.setdefault(row["source"], []).append(encoded_row(row))
    return train.remove_columns("source"), held_out


def encoded_row(row: dict[str, Any]) -> Encoded:
    """Parts what is not learnt from the answer."""
    prompt = sum(label < 0 for label in row["labels"])
    return Encoded(row["input_ids"][:prompt], row["input_ids"][prompt:])


def built(config: RunConfig, directory: RunDirectory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The folder with the rows, which are made if what is there is of other inputs."""
    if not config.data.instructions:
        raise UserError("nothing to learn from: give data.instructions")
    folder = directory.path / "data"
    made_from = inputs_of(config, tokenizer)
    if (folder / "build.json").is_file():
        report = json.loads((folder / "build.json").read_bytes())
        if report["made_from"] == made_from:
            note(_summary(report, config))
            return folder
    report = build(config, directory, tokenizer) | {"made_from": made_from}
    write_json(folder / "build.json", report)  # last: without it nothing here is used
    note(_summary(report, config))
    return folder


def build(
    config: RunConfig, directory: RunDirectory, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Write the rows; what is in them, for `align data inspect`. Without an end, none stay."""
    folder = directory.path / "data"
    for stale in (folder / "build.json", *folder.glob("cache-*.arrow")):  # datasets' packed rows
        stale.unlink(missing_ok=True)
    rejects = Rejects(directory.stage("sft") / "rejected.jsonl", config.data.max_rejected)
    try:
        return _written(config, folder, tokenizer, rejects)
    finally:
        shutil.rmtree(folder / "sources", ignore_errors=True)


def _written(
    config: RunConfig, folder: Path, tokenizer: PreTrainedTokenizerBase, rejects: Rejects
) -> dict[str, Any]:
    mixture = config.mixture.instructions
    sources = encoded_sources(config.data, mixture, config.seed, tokenizer, folder, rejects)
    plan = mixed(mixture, sources, config.seed)
    check_something_is_left(config.data, sources, plan)
    rows, held_out = (
        write_rows(folder / name, sources.names, stores, draws)
        for name, stores, draws in (
            ("train.arrow", sources.train, plan.draws(sources.train)),
            ("held_out.arrow", sources.test, held_out_rows(mixture, sources)),
        )
    )
    return {
        "rows": rows,
        "held_out": held_out,
        "cut": cut_rows(sources),
        "too_long": sum(sources.too_long),
        "sources": statistics_of(sources, plan),
    }


def inputs_of(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """Names everything that the rows depend on."""
    data = config.data.model_dump(mode="json", exclude={"prompts", "feedback", "evaluation"})
    mixture = config.mixture.instructions
    files = [_files_hash(source) for source in config.data.instructions]
    return sha256_of(
        [
            FORMAT,
            config.seed,
            data,
            mixture.model_dump(mode="json") if mixture else None,
            _tokenizer_hash(tokenizer),
            files,
        ]
    )


def _files_hash(source: InstructionSource) -> str:
    """Of a file or of all files of a folder; data on a hub is taken to stay as it is."""
    if source.path is None:
        return source.hub or source.format
    files = sorted(source.path.rglob("*")) if source.path.is_dir() else [source.path]
    digests = []
    for file in files:
        if file.is_file():
            with file.open("rb") as content:
                digests.append([file.name, hashlib.file_digest(content, "sha256").hexdigest()])
    return sha256_of(digests)


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return sha256_of([tokenizer.get_vocab(), tokenizer.chat_template, special])


def _summary(report: dict[str, Any], config: RunConfig) -> str:
    return (
        f"{report['rows']} examples to learn, {report['held_out']} held out, {report['cut']} cut "
        f"at {config.data.max_length} tokens, {report['too_long']} left out for a long prompt"
    )
