"""Raw records of every kind into one preference table. After this nobody knows the kinds apart.

    counts = write_pairs(path, convert(batches, config.feedback, config.data.held_out))

`convert` takes Arrow batches (each of one kind, in its schema of `data/schemas.py`) or records as
dicts, in any order, and gives the table in parts, each with what became of its records. Memory does
not grow with the number of records, and neither the order of the input nor the size of the parts
changes a row.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import Flags, one_array, text_codes
from align.data.by_prompt import RUN_BYTES, Slice
from align.data.errors import DataError, UserError
from align.data.invariants import Problem
from align.data.pair_invariants import pairs_problems, provenance_problems
from align.data.record_batches import record_batch
from align.data.rejects import Rejects
from align.data.same_texts import by_text
from align.data.schemas import FEEDBACK, PREFERENCE, Record
from align.data.splits import Assignment, by_hash, frozen
from align.reward.config import FeedbackConfig
from align.reward.feedback import learned
from align.reward.feedback.comparisons import Fit
from align.reward.feedback.conflicts import conflict_table, disagreements, hard_rules_first
from align.reward.feedback.kinds import Options, converter, judged
from align.reward.feedback.pairs import Pairs, pairs_of
from align.reward.feedback.pool import Pool, pooled
from align.reward.feedback.table import Provenance, preference_batches
from align.reward.feedback.truth import truth_of
from align.reward.feedback.votes import votes_on_pairs

ROWS = 10_000  # records of a batch, where they come as dicts

Counted = Callable[[pa.Table], Flags]
"""Which records (R) count: of annotators in the pool at the time, for example."""


@dataclass(frozen=True)
class Counts:
    """What became of the records of one kind."""

    records: int = 0
    gold: int = 0
    excluded: int = 0  # of annotators that do not count
    silent: int = 0  # the rest that are in no pair: skipped, unsure, or nothing to compare with
    pairs: int = 0
    ties: int = 0
    test: int = 0  # pairs that are held out

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Part:
    """A part of the preference table, and what became of the records behind it."""

    pairs: pa.Table  # PREFERENCE
    conflicts: pa.Table  # CONFLICT
    counts: dict[str, Counts]  # by kind
    leaks: tuple[str, ...] = ()  # prompts near to old ones of both splits; all with the first part


def convert(
    records: Iterable[Record | pa.RecordBatch],
    config: FeedbackConfig,
    held_out: float,
    *,
    counted: Counted | None = None,
    fit: Fit | None = None,
    assignments: Path | None = None,
    rejects: Rejects | None = None,
    folder: Path | None = None,
    run_bytes: int = RUN_BYTES,
) -> Iterator[Part]:
    """The preference table of all records, in the order of prompt, criterion, source and pair_id.

    `counted` says which records count; gold ones never do. `fit` fits strengths, for
    `comparisons.pairs: fitted`. `assignments` is the file that freezes splits, with
    `near_duplicates`. Records whose ids contradict earlier ones go to `rejects`, with their columns
    `file` and `line`. Temporary files lie in `folder`. `noise: dawid_skene` keeps all votes in
    memory.

    Raises: DataError for contradicting records without `rejects`; UserError for a missing `fit`.
    """
    if config.comparisons.pairs == "fitted" and fit is None:
        raise UserError("feedback.comparisons.pairs: fitted needs a fit of strengths: use `raw`")
    options = Options(config, fit)
    aside = partial(set_aside, rejects=rejects)
    with by_text(_batches(records), aside, folder, run_bytes) as slices:
        if config.questions.mode == "learned":
            usable = _usable(slices, counted)
            weights = learned.learned_weights(map(learned.differences, usable))
            options = replace(options, question_weights=weights)
        converters = {kind: converter(kind, options, held_out) for kind in FEEDBACK}
        splits, leaks = _splits(slices, config, held_out, assignments)
        truth = None
        if config.noise == "dawid_skene":
            truth = truth_of(votes_on_pairs(_usable(slices, counted), options))
        provenance = Provenance(splits, truth, converters)
        for one in slices:
            if one:
                part = _part(one, _countable(one, counted), options, provenance)
                yield replace(part, leaks=leaks)
                leaks = ()


def _batches(records: Iterable[Record | pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches as they are; dicts gathered by kind, with their place in the input."""
    held: dict[str, list[tuple[int, Record]]] = {}
    for arrival, one in enumerate(records):
        if isinstance(one, pa.RecordBatch):
            yield one
            continue
        held.setdefault(one["kind"], []).append((arrival, one))
        if len(held[one["kind"]]) == ROWS:
            yield _batch(held.pop(one["kind"]))
    yield from map(_batch, held.values())


def _batch(rows: list[tuple[int, Record]]) -> pa.RecordBatch:
    batch = record_batch([one for _, one in rows])
    return batch.append_column("arrival", pa.array([arrival for arrival, _ in rows]))


def set_aside(tables: Slice, problem: Problem, rejects: Rejects | None) -> None:
    """Reject a record by its place in its file. Raises: DataError without `rejects`."""
    where = tables[problem.kind].slice(problem.row, 1).to_pylist()[0]
    file, line = where.get("file", problem.kind), where.get("line", where["arrival"] + 1)
    if rejects is None:
        raise DataError(f"{file}:{line}: {problem.field}: {problem.reason}")
    rejects.add(Path(file), line, problem.field, problem.reason)


def _usable(slices: Iterable[Slice], counted: Counted | None) -> Iterator[Slice]:
    """What counts of each slice, for what is learned from all records before any becomes a pair."""
    return (_countable(one, counted) for one in slices)


def _countable(tables: Slice, counted: Counted | None) -> Slice:
    """Without gold records, which test annotators alone, and those that do not count."""
    kept = {}
    for kind, table in tables.items():
        flags = pc.invert(table["gold"])
        if counted is not None:
            flags = pc.and_(flags, pa.array(counted(table)))
        kept[kind] = table if pc.all(flags).as_py() else table.filter(flags)
    return kept


def _part(tables: Slice, usable: Slice, options: Options, provenance: Provenance) -> Part:
    """The pairs of some prompts."""
    pool = pooled(judged(usable, options))
    pairs = pairs_of(pool, options.config.ties)
    if options.config.margins == "none":
        pairs = replace(pairs, margin_M=np.zeros(len(pairs)))
    conflicts = []
    if options.config.rules.hard:
        pool, pairs, outvoted = hard_rules_first(pool, pairs)
        conflicts.append(outvoted)
    conflicts.append(conflict_table(pool, pairs, *disagreements(pool, pairs), outvoted=False))
    batches = preference_batches(pool, pairs, provenance)
    table = pa.Table.from_batches(batches, schema=PREFERENCE)
    # Valid records give valid pairs; anything else is our bug.
    problems = [*pairs_problems(table), *provenance_problems(table, *_records_of(tables))]
    assert not problems, problems[:3]
    return Part(table, pa.concat_tables(conflicts), _counts(tables, usable, pool, pairs, table))


def _records_of(tables: Slice) -> tuple[pa.Array, pa.Array]:
    """The ids of all records, and which of them are gold."""
    ids, gold = (
        pa.concat_arrays([one_array(table[name]) for table in tables.values()])
        for name in ("feedback_id", "gold")
    )
    return ids, gold


def _counts(
    tables: Slice, usable: Slice, pool: Pool, pairs: Pairs, table: pa.Table
) -> dict[str, Counts]:
    used_R = np.zeros(len(pool.table), dtype=bool)
    used_R[pairs.record_E] = True
    counts = {}
    for kind, records in tables.items():
        place = pool.kinds.index(kind)
        mine = table.filter(pc.equal(table["feedback_kind"].cast(pa.string()), kind))
        gold = pc.sum(records["gold"]).as_py() or 0
        counts[kind] = Counts(
            records=len(records),
            gold=gold,
            excluded=len(records) - gold - len(usable[kind]),
            silent=int((~used_R & (pool.kind_R == place)).sum()),
            pairs=len(mine),
            ties=int((mine["target_prob"].to_numpy() == 0.5).sum()),
            test=pc.sum(pc.equal(mine["split"].cast(pa.string()), "test")).as_py() or 0,
        )
    return counts


def _splits(
    slices: Iterable[Slice], config: FeedbackConfig, held_out: float, assignments: Path | None
) -> tuple[Assignment, tuple[str, ...]]:
    if config.near_duplicates:
        return frozen(_prompts(slices), assignments, held_out)
    return by_hash(held_out), ()


def _prompts(slices: Iterable[Slice]) -> dict[str, tuple[str, str]]:
    """Text and cluster of every prompt, by id."""
    prompts = {}
    for one in slices:
        for table in one.values():
            _, first = np.unique(text_codes(table["prompt_id"]), return_index=True)
            rows = table.select(["prompt_id", "prompt", "cluster_id"]).take(pa.array(first))
            for row in rows.to_pylist():
                text = "\n".join(message["content"] for message in row["prompt"])
                prompts[row["prompt_id"]] = (text, row["cluster_id"])
    return prompts
