"""What SFT learns and is evaluated on, built once and used again while nothing of it has changed.

`RUN_DIR/data/build.json` says what the Arrow files beside it were made from: the settings, the
tokenizer and the hash of every input file.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
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
    unreached,
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
    rejected = directory.stage("sft") / "rejected.jsonl"
    report = stored(folder, made_from)
    if report is None:
        report = build(config, folder, tokenizer, rejected) | {"made_from": made_from}
        write_json(folder / "build.json", report)  # last: without it nothing here is used
    tell(report, config, rejected)
    return folder


def stored(folder: Path, made_from: str) -> dict[str, Any] | None:
    """What is in the rows of a folder, or None if there are none of these inputs."""
    try:
        report = json.loads((folder / "build.json").read_bytes())
    except (FileNotFoundError, ValueError):  # a broken report is that of no build
        return None
    made: dict[str, Any] = report if isinstance(report, dict) else {}
    whole = all((folder / name).is_file() for name in ("train.arrow", "held_out.arrow"))
    return made if whole and made.get("made_from") == made_from else None


def built_aside(
    config: RunConfig, run_dir: Path, tokenizer: PreTrainedTokenizerBase, rejected: Path | None
) -> dict[str, Any]:
    """What would be in the rows if `run_dir` were built now; they are made, but not kept."""
    frozen = run_dir / "data" / "splits.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        if frozen.is_file():
            shutil.copy(frozen, folder)
        return build(config, Path(folder), tokenizer, rejected)


def build(
    config: RunConfig, folder: Path, tokenizer: PreTrainedTokenizerBase, rejected: Path | None
) -> dict[str, Any]:
    """Write the rows; what is in them, for `align data inspect`. Without an end, none stay.

    Bad rows are kept in the file `rejected`, if it is given.
    """
    packed = folder.glob("cache-*.arrow")  # by `datasets`, from rows that are gone
    killed = folder.glob(".*.arrow.*")  # while they were written
    for stale in (folder / "build.json", *packed, *killed):
        stale.unlink(missing_ok=True)
    rejects = Rejects(rejected, config.data.max_rejected)
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
    drawn, held_out = (
        write_rows(folder / name, sources.names, stores, draws)
        for name, stores, draws in (
            ("train.arrow", sources.train, plan.draws(sources.train)),
            ("held_out.arrow", sources.test, held_out_rows(mixture, sources)),
        )
    )
    statistics = statistics_of(sources, plan, drawn)
    tokens = {source["source"]: source["tokens"] for source in statistics}
    return {
        "rows": sum(source["draws"] for source in statistics),
        "held_out": sum(int(count.sum()) for count in held_out),
        "rejected": rejects.rows,
        "notes": [*sources.notes, *unreached(mixture, tokens)],
        "cut": cut_rows(sources),
        "too_long": sum(sources.too_long),
        "sources": statistics,
    }


def inputs_of(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """Names everything that the rows depend on."""
    data = config.data.model_dump(mode="json", exclude={"prompts", "feedback", "evaluation"})
    mixture = config.mixture.instructions
    files = [digest for source in config.data.instructions for digest in _input_hashes(source)]
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


def _input_hashes(source: InstructionSource) -> Iterator[str]:
    """Of the files that shape a source's rows; data on a hub is taken to stay as it is."""
    if source.path is not None:
        yield _files_hash(source.path)
    if source.templates is not None and source.templates.file is not None:
        yield _files_hash(source.templates.file)


def _files_hash(path: Path) -> str:
    """Of a file or of all files of a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digests = []
    for file in files:
        if file.is_file():
            with file.open("rb") as content:
                digests.append([file.name, hashlib.file_digest(content, "sha256").hexdigest()])
    return sha256_of(digests)


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return sha256_of([tokenizer.get_vocab(), tokenizer.chat_template, special])


def tell(report: dict[str, Any], config: RunConfig, rejected: Path | None) -> None:
    """A line on the rows, and one for each thing that is worth knowing of them."""
    note(
        f"{report['rows']} examples to learn, {report['held_out']} held out, {report['cut']} cut "
        f"at {config.data.max_length} tokens, {report['too_long']} left out for a long prompt"
    )
    if report["rejected"]:
        where = f"; they are in {rejected}" if rejected else ""
        note(f"{report['rejected']} rows rejected{where}")
    for line in report["notes"]:
        note(line)
