"""From encoded sources to the rows that SFT learns: chosen, mixed, and written in their order.

    FOLDER/train.arrow                           the rows of a pass in token ids, in their order
    FOLDER/held_out.arrow                        the rows that are evaluated

Rows are drawn and written one by one, so memory does not grow with the sources.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from align.data.arrays import Ints
from align.data.atomic import written_whole
from align.data.config import DataConfig
from align.data.errors import UserError
from align.data.mixture.caps import capped
from align.data.mixture.choose import chosen
from align.data.mixture.plan import Plan, planned
from align.data.mixture.store import BATCH, TOKENS, Store, concatenated
from align.data.mixture_config import Mixture
from align.pipeline.instruction_encode import Sources

IGNORED = -100
"""The label of a token that is not learnt (torch's cross-entropy skips it)."""
ROWS = pa.schema([("input_ids", TOKENS), ("labels", TOKENS), ("source", pa.string())])


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


def mixed(mixture: Mixture | None, sources: Sources, seed: int) -> Mixed:
    """Which rows may be drawn, and how often each source is. Raises: UserError."""
    if mixture is None:
        return Mixed([None] * len(sources.train), None)
    named = zip(sources.train, sources.names, strict=True)
    rows = chosen(mixture, [store.choosable(name) for store, name in named])
    used = zip(sources.train, rows, strict=True)
    counts = [len(store) if places is None else len(places) for store, places in used]
    for name, count, too_long in zip(sources.names, counts, sources.too_long, strict=True):
        if too_long and not count:
            raise UserError(
                f"mixture: source {name} has no row left: {too_long} of its prompts have more than "
                "data.max_prompt_length tokens: raise it, or leave the source out"
            )
    tokens = [
        store.tokens(places) / max(count, 1)
        for store, places, count in zip(sources.train, rows, counts, strict=True)
    ]
    return Mixed(rows, planned(mixture, sources.names, np.array(counts), np.array(tokens), seed))


def held_out_rows(mixture: Mixture | None, sources: Sources) -> Iterator[tuple[int, int]]:
    """(source, row) of what is evaluated: everything, or with a mixture those of least hash."""
    content = concatenated(sources.test, "content")
    places: Ints = np.arange(len(content))
    if mixture is not None:
        places = capped(content, np.zeros_like(places), mixture.eval_rows)
    ends = np.cumsum([len(store) for store in sources.test])
    for place in places.tolist():
        source = int(np.searchsorted(ends, place, side="right"))
        yield source, place - int(ends[source]) + len(sources.test[source])


def write_rows(
    path: Path, names: Sequence[str], stores: Sequence[Store], draws: Iterable[tuple[int, int]]
) -> list[Ints]:
    """The rows drawn, in that order; of each source, how often each row was drawn.

    `names` are those of the sources.
    """
    drawn = [np.zeros(len(store), dtype=np.int64) for store in stores]
    with written_whole(path) as file, pa.ipc.new_stream(file, ROWS) as stream:
        for piece in _pieces(draws):
            ids, labels = [], []
            for source, row in piece:
                prompt, completion = stores[source].ids(row)
                drawn[source][row] += 1
                ids.append(np.concatenate([prompt, completion]))
                labels.append(np.concatenate([np.full_like(prompt, IGNORED), completion]))
            arrays = [pa.array(column, TOKENS) for column in (ids, labels)]
            arrays.append(pa.array([names[source] for source, _ in piece], pa.string()))
            stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=ROWS))
    return drawn


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


def unreached(mixture: Mixture | None, tokens: Mapping[str, int]) -> Iterator[str]:
    """Of each source that gives less than its token_share, a line; `tokens` are those drawn."""
    for share in mixture.sources if mixture else ():
        reached = tokens[share.name] / sum(tokens.values())
        if share.token_share and share.max_epochs and reached < 0.95 * share.token_share:
            yield (
                f"{share.name} gives {reached:.1%} of all tokens, not its token_share "
                f"{share.token_share:g}: max_epochs ({share.max_epochs}) allows no more"
            )


def cut_rows(sources: Sources) -> int:
    """Training rows whose answer was cut at `data.max_length`."""
    return sum(int(store.table.column("truncated").to_numpy().sum()) for store in sources.train)


def _pieces(draws: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    piece: list[tuple[int, int]] = []
    for draw in draws:
        piece.append(draw)
        if len(piece) == BATCH:
            yield piece
            piece = []
    if piece:
        yield piece
