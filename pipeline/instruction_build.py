"""From instruction sources to the rows that SFT learns: encoded, split, chosen, mixed, on disk.

    FOLDER/sources/N.train.arrow, N.test.arrow   every encoded row of source N; see data/mixture
    FOLDER/train.arrow                           the rows of a pass in token ids, in their order
    FOLDER/held_out.arrow                        the rows that are evaluated

Rows are read, written and drawn one by one, so memory does not grow with the sources.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from align.data.arrays import Ints
from align.data.atomic import written_whole
from align.data.chat import Encoded, encode, encode_prompt, encode_text, truncate
from align.data.config import DataConfig
from align.data.errors import UserError
from align.data.exchanges import Instruction, Reading
from align.data.instruction_config import InstructionSource
from align.data.instructions import instructions_of
from align.data.mixture.caps import capped
from align.data.mixture.choose import chosen
from align.data.mixture.near import Near, near
from align.data.mixture.plan import Plan, planned
from align.data.mixture.store import BATCH, TOKENS, Store, Stored, concatenated, writer
from align.data.mixture_config import Mixture
from align.data.rejects import Rejects
from align.data.splits import Split, read_assignments, split_of, write_assignments
from align.data.text_hashes import content_hash, prompt_hash
from align.pipeline.progress import note, tracked

IGNORED = -100
"""The label of a token that is not learnt (torch's cross-entropy skips it)."""
ROWS = pa.schema([("input_ids", TOKENS), ("labels", TOKENS)])


@dataclass(frozen=True)
class Sources:
    """Every source, encoded and on disk."""

    names: tuple[str, ...]
    train: list[Store]
    test: list[Store]
    too_long: list[int]
    """Rows of each source whose prompt is longer than `data.max_prompt_length`."""


@dataclass(frozen=True)
class Mixed:
    """What a pass draws: the plan over the chosen rows of each source, or all rows in order."""

    chosen: list[Ints | None]
    plan: Plan | None

    def draws(self, stores: Sequence[Store]) -> Iterator[tuple[int, int]]:
        """(source, row) of a pass."""
        if self.plan is None:
            for source, store in enumerate(stores):
                yield from ((source, row) for row in range(len(store)))
            return
        for source, place in self.plan.stream(0, self.plan.length):
            rows = self.chosen[source]
            yield source, place if rows is None else int(rows[place])


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
        if close.leaks:
            note(f"{len(close.leaks)} prompts are near to earlier ones of both splits")
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


def mixed(mixture: Mixture | None, sources: Sources, seed: int) -> Mixed:
    """Which rows may be drawn, and how often each source is. Raises: UserError."""
    if mixture is None:
        return Mixed([None] * len(sources.train), None)
    named = zip(sources.train, sources.names, strict=True)
    rows = chosen(mixture, [store.choosable(name) for store, name in named])
    used = zip(sources.train, rows, strict=True)
    counts = [len(store) if places is None else len(places) for store, places in used]
    tokens = [
        store.tokens(places) / max(count, 1)
        for store, places, count in zip(sources.train, rows, counts, strict=True)
    ]
    return Mixed(rows, planned(mixture, sources.names, np.array(counts), np.array(tokens), seed))


def held_out_rows(mixture: Mixture | None, sources: Sources) -> Iterator[tuple[int, int]]:
    """(source, row) of what is evaluated: everything, or with a mixture those of least hash."""
    places = [(s, row) for s, store in enumerate(sources.test) for row in range(len(store))]
    if mixture is None or not places:
        yield from places
        return
    content = concatenated(sources.test, "content")
    for place in capped(content, np.zeros(len(content), dtype=np.int64), mixture.eval_rows):
        yield places[place]


def write_rows(path: Path, stores: Sequence[Store], draws: Iterable[tuple[int, int]]) -> int:
    """Columns input_ids and labels of the rows drawn, in that order; how many there are."""
    count = 0
    with written_whole(path) as file, pa.ipc.new_stream(file, ROWS) as stream:
        for piece in _pieces(draws):
            ids, labels = [], []
            for source, row in piece:
                prompt, completion = stores[source].ids(row)
                ids.append(np.concatenate([prompt, completion]))
                labels.append(np.concatenate([np.full_like(prompt, IGNORED), completion]))
            arrays = [pa.array(column, TOKENS) for column in (ids, labels)]
            stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=ROWS))
            count += len(piece)
    return count


def check_something_is_left(config: DataConfig, sources: Sources, mixture: Mixed) -> None:
    """Raises: UserError if there is nothing to learn or nothing to hold out, or all is cut."""
    train, test = sum(map(len, sources.train)), sum(map(len, sources.test))
    if not train or not test:
        raise UserError(
            f"of {train + test + sum(sources.too_long)} instructions {train} are left to train on "
            f"and {test} to hold out (data.held_out {config.held_out}); {sum(sources.too_long)} "
            f"have a prompt of more than data.max_prompt_length ({config.max_prompt_length}) tokens"
        )
    if cut_rows(sources) == train:
        raise UserError(
            f"every answer passes data.max_length ({config.max_length} tokens, prompt included) "
            "and would be cut, so none teaches the model to end: raise data.max_length"
        )


def cut_rows(sources: Sources) -> int:
    """Training rows whose answer was cut at `data.max_length`."""
    return sum(int(store.table.column("truncated").to_numpy().sum()) for store in sources.train)


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
            content, prompt = content_hash(one), prompt_hash(one)
            content = first_like.get(content, content)
            for piece in pieces:
                side.add(
                    Stored(
                        piece,
                        content,
                        prompt,
                        one.task_id,
                        one.license,
                        one.template_id,
                        one.label,
                    )
                )
    return too_long


def _pieces(draws: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    piece: list[tuple[int, int]] = []
    for draw in draws:
        piece.append(draw)
        if len(piece) == BATCH:
            yield piece
            piece = []
    if piece:
        yield piece
