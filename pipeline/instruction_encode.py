"""Instruction sources in token ids on disk, each row in its split.

    FOLDER/sources/N.train.arrow, N.test.arrow   every encoded row of source N; see data/mixture
    FOLDER/splits.jsonl                          what `dedup: near` has frozen

Rows are read and written one by one, so memory does not grow with the sources; only `dedup: near`
holds their texts.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from align.data.chat import Encoded, encode, encode_prompt, encode_text, truncate
from align.data.config import DataConfig
from align.data.exchanges import Instruction, Reading
from align.data.instruction_config import InstructionSource
from align.data.instructions import instructions_of
from align.data.mixture.near import Near, near
from align.data.mixture.store import Store, Stored, writer
from align.data.mixture_config import Mixture
from align.data.rejects import Rejects
from align.data.splits import Split, read_assignments, split_of, write_assignments
from align.data.text_hashes import content_hash, piece_hash
from align.pipeline.progress import tracked


@dataclass(frozen=True)
class Sources:
    """Every source, encoded and on disk."""

    names: tuple[str, ...]
    train: list[Store]
    test: list[Store]
    too_long: list[int]
    """Rows of each source whose prompt is longer than `data.max_prompt_length`."""
    notes: list[str]
    """What is worth knowing of their splits."""


def encoded_sources(
    config: DataConfig,
    mixture: Mixture | None,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    rejects: Rejects,
) -> Sources:
    """Read, encode and split all sources. Raises: DataError if too many rows are bad."""
    close = near_rows(config, mixture, seed, folder / "splits.jsonl")
    if close is not None:
        write_assignments(folder / "splits.jsonl", close.assigned)
    reading = Reading(
        seed,
        split_function(close, config.held_out),
        lambda prompt: len(encode_prompt(tokenizer, prompt)),
        config.max_prompt_length,
    )
    shutil.rmtree(folder / "sources", ignore_errors=True)
    paths = [folder / "sources" / str(n) for n in range(len(config.instructions))]
    content = close.content if close else {}
    too_long = [
        _encode_source(source, path, tokenizer, config, reading, content, rejects)
        for source, path in zip(config.instructions, paths, strict=True)
    ]
    rejects.finish()
    return Sources(
        tuple(source.named for source in config.instructions),
        [Store(path.with_suffix(".train.arrow")) for path in paths],
        [Store(path.with_suffix(".test.arrow")) for path in paths],
        too_long,
        [*_split_notes(close, config.held_out)] if close else [],
    )


def _split_notes(close: Near, held_out: float) -> Iterator[str]:
    if close.leaks:
        yield f"{len(close.leaks)} prompts are near to earlier ones of both splits"
    kept = sum(one.split != split_of(one.cluster_id, held_out) for one in close.assigned.values())
    if kept:
        yield (
            f"{kept} prompts stay in the split that data/splits.jsonl froze, whatever "
            f"data.held_out ({held_out}) is now: delete it to split anew"
        )


def split_function(close: Near | None, held_out: float) -> Callable[[str], Split]:
    """From a group to its split: by hash alone, or by what it is near to."""
    if close is None:
        return lambda group: split_of(group, held_out)
    return lambda group: close.splits[group]


def near_rows(config: DataConfig, mixture: Mixture | None, seed: int, path: Path) -> Near | None:
    """What is near to what, if that is asked for; the file at `path` freezes earlier splits."""
    if mixture is None or mixture.dedup != "near":
        return None
    rows = (
        row
        for source in config.instructions
        for row in instructions_of(source.without_demonstrations(), Rejects(None), Reading(seed))
    )
    compared = tracked("rows compared", rows, lambda _: 1)
    return near(compared, read_assignments(path), config.held_out)


def learnt(
    tokenizer: PreTrainedTokenizerBase, instruction: Instruction, config: DataConfig
) -> list[Encoded]:
    """What the model sees: one row, several for a long text, none if the prompt is too long."""
    assert instruction.completion is not None  # it is checked
    if not instruction.prompt:
        return encode_text(tokenizer, instruction.completion[0]["content"], config.max_length)
    encoded = encode(tokenizer, instruction.prompt, instruction.completion)
    if len(encoded.prompt_ids) > config.max_prompt_length:
        return []
    return [truncate(encoded, config.max_length)]


def _encode_source(
    source: InstructionSource,
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    reading: Reading,
    first_like: Mapping[int, int],
    rejects: Rejects,
) -> int:
    """Write both splits of a source; how many rows have too long a prompt."""
    too_long = 0
    with ExitStack() as files:
        sides = {
            split: files.enter_context(writer(path.with_suffix(f".{split}.arrow")))
            for split in ("train", "test")
        }
        rows = instructions_of(source, rejects, reading)
        for one in tracked(f"rows of {source.named}", rows, lambda _: 1):
            pieces = learnt(tokenizer, one, config)
            too_long += not pieces
            side = sides[reading.split(one.group)]
            content = content_hash(one)
            content = first_like.get(content, content)
            for number, piece in enumerate(pieces):
                key = piece_hash(content, number)
                known = (one.task_id, one.license, one.template_id, one.label)
                side.add(Stored(piece, key, *known))
    return too_long
