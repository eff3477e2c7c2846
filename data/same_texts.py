"""One name for one text: prompts and answers that stand in the records under several ids.

Prompts that are equal but for case, spaces and Unicode form become one, under the prompt_id by
which the text was judged first (`created_at`; at one time, the smallest), and so do their clusters:
no prompt is learnt from and held out at once. Answers to it of the same text become one, under the
completion_id by which they were judged first, or under their content's where that id named another
text as early: whoever judged them under other ids judged the same pair. Records without a cluster
get that of their text.

So a record that was judged later than others of its text renames none of them, nor moves them to
another split, and to take it away does neither. It does where it is the first of its text and has
another id or cluster than later ones, or where it puts a text of one cluster into another: clusters
that are joined are one, under the older name.
Legend: R records, P prompts, A answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import (
    Flags,
    Ints,
    joint_codes,
    name_codes,
    one_array,
    ragged,
    runs,
    text_codes,
    texts_of,
)
from align.data.by_prompt import RUN_BYTES, Slice, Slices, by_prompt
from align.data.invariants import Problem, consistent, prompt_codes
from align.data.messages import assistant, cluster_id_of, completion_id_of

TEXT = "prompt_text"  # column of 8 bytes of the hash of a prompt's text, as in `by_prompt`


@dataclass(frozen=True)
class Consistent:
    """Slices without the records that contradict earlier ones; they can be read again."""

    slices: Slices
    bad: Ints  # arrivals

    def __iter__(self) -> Iterator[Slice]:
        for one in self.slices:
            good = {kind: self._good(table) for kind, table in one.items()}
            yield with_one_id_an_answer({kind: table for kind, table in good.items() if len(table)})

    def _good(self, table: pa.Table) -> pa.Table:
        is_bad = np.isin(one_array(table["arrival"]).to_numpy(), self.bad)
        return table.filter(pa.array(~is_bad)) if is_bad.any() else table


@contextmanager
def by_text(
    batches: Iterable[pa.RecordBatch],
    set_aside: Callable[[Slice, Problem], None],
    folder: Path | None = None,
    run_bytes: int = RUN_BYTES,
) -> Iterator[Consistent]:
    """As `by_prompt`, with one name for each text, and without contradictions, which are set aside.

    8 bytes of every prompt are kept, and the ids of prompts under several.
    """
    with by_prompt(map(_with_texts, batches), folder, run_bytes) as slices:
        bad: list[int] = []
        texts: list[Ints] = []
        for one in slices:
            good, problems = consistent(one, slices.repeated)
            for problem in problems:
                set_aside(one, problem)
                bad.append(one[problem.kind]["arrival"][problem.row].as_py())
            texts.append(_text_of_each_prompt(good))
        first = Consistent(slices, np.array(bad, dtype=np.int64))
        known, prompts_of_each = np.unique(np.concatenate(texts), return_counts=True)
        if not (several := known[prompts_of_each > 1]).size:
            yield first
            return
        prompts, clusters = _names(first, several)
        renamed = (
            batch
            for one in first
            for table in one.values()
            for batch in _renamed(table, prompts, clusters).to_batches()
        )
        with by_prompt(renamed, folder, run_bytes) as merged:
            yield Consistent(merged, np.empty(0, np.int64))


def _with_texts(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With TEXT, and a cluster for every prompt."""
    _, first_P, prompt_R = np.unique(prompt_codes(batch), return_index=True, return_inverse=True)
    prompts = batch["prompt"].take(pa.array(first_P)).to_pylist()
    clusters = [cluster_id_of(prompt) for prompt in prompts]
    text_P = np.array([int(name[:16], 16) for name in clusters], dtype=np.uint64).view(np.int64)
    place = batch.schema.get_field_index("cluster_id")
    own = pa.array(clusters, pa.string()).take(pa.array(prompt_R))
    filled = pc.coalesce(batch["cluster_id"], own)
    batch = batch.set_column(place, batch.schema.field(place), filled)
    return batch.append_column(TEXT, pa.array(text_P[prompt_R]))


def _text_of_each_prompt(tables: Slice) -> Ints:
    """TEXT of every different prompt_id of a slice (P)."""
    columns = [table.select(["prompt_id", TEXT]) for table in tables.values()]
    if not columns:
        return np.empty(0, np.int64)
    both = pa.concat_tables(columns)
    _, first_P = np.unique(text_codes(both["prompt_id"]), return_index=True)
    text_R: Ints = both[TEXT].to_numpy()
    return text_R[first_P]


def _names(slices: Iterable[Slice], several: Ints) -> tuple[dict[str, str], dict[str, str]]:
    """New names of prompts and of clusters, where they get one: the oldest of the old ones."""
    keys = [TEXT, "prompt_id", "cluster_id"]
    prompts: dict[int, dict[str, datetime]] = {}
    clusters: dict[int, dict[str, datetime]] = {}
    for one in slices:
        for table in one.values():
            mine = table.select([*keys, "created_at"])
            mine = mine.filter(pa.array(np.isin(mine[TEXT].to_numpy(), several)))
            for row in mine.group_by(keys).aggregate([("created_at", "min")]).to_pylist():
                for names, key in ((prompts, "prompt_id"), (clusters, "cluster_id")):
                    _keep_oldest(names.setdefault(row[TEXT], {}), {row[key]: row["created_at_min"]})
    return _oldest([*prompts.values()]), _oldest([*clusters.values()])


def _keep_oldest(since: dict[str, datetime], more: Mapping[str, datetime]) -> None:
    for name, time in more.items():
        since[name] = min(time, since.get(name, time))


def _oldest(groups: Sequence[Mapping[str, datetime]]) -> dict[str, str]:
    """For each name, the oldest of those that it shares a group with, at any remove."""
    parent: dict[str, str] = {}
    since: dict[str, datetime] = {}
    for group in groups:
        _keep_oldest(since, group)

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            name = above
        return name

    for group in groups:
        roots = {root(name) for name in group}
        oldest, *others = sorted(roots, key=lambda name: (since[name], name))
        parent |= dict.fromkeys(others, oldest)
    return {name: root(name) for name in parent}


def _renamed(table: pa.Table, prompts: Mapping[str, str], clusters: Mapping[str, str]) -> pa.Table:
    for column, names in (("prompt_id", prompts), ("cluster_id", clusters)):
        old = one_array(table[column].dictionary_encode())
        new = [names.get(name, name) for name in old.dictionary.to_pylist()]
        table = _replaced(table, column, pa.array(new, pa.string()).take(old.indices))
    return table


def with_one_id_an_answer(tables: Slice) -> Slice:
    """Answers of one text to one prompt under the oldest of their completion_ids."""
    if not tables:
        return tables
    columns = ["prompt_id", "completion_ids", "completions", "created_at"]
    every = pa.concat_tables([table.select(columns) for table in tables.values()]).combine_chunks()
    start_R1, ids = ragged(every["completion_ids"])
    prompt_A = np.repeat(text_codes(every["prompt_id"]), np.diff(start_R1))
    time_R = one_array(every["created_at"]).cast(pa.int64()).to_numpy()
    time_A = np.repeat(time_R, np.diff(start_R1))
    id_A, names = name_codes(ids)
    texts = texts_of(every["completions"])
    text_A = joint_codes(prompt_A, text_codes(texts))
    clear_A = _clear(joint_codes(prompt_A, id_A), text_A, time_A)
    order, start = runs(text_A, then=joint_codes(1 - clear_A, time_A, id_A))
    best_A = np.empty(len(order), dtype=np.int64)
    best_A[order] = np.repeat(order[start[:-1]], np.diff(start))
    new_A = id_A[best_A]
    if (new_A == id_A).all() and clear_A.all():
        return tables
    unnamed_A = np.flatnonzero(~clear_A[best_A])
    own = [completion_id_of(assistant(text)) for text in texts.take(unnamed_A).to_pylist()]
    new_A[unnamed_A] = len(names) + np.arange(len(own))
    values = pa.concat_arrays([names, pa.array(own, pa.string())]).take(pa.array(new_A))
    kind = every.schema.field("completion_ids").type
    lists = pa.ListArray.from_arrays(pa.array(start_R1.astype(np.int32)), values, type=kind)
    ends = np.cumsum([0, *(len(table) for table in tables.values())]).tolist()
    return {
        kind: _replaced(table, "completion_ids", lists.slice(begin, len(table)))
        for begin, (kind, table) in zip(ends, tables.items(), strict=False)
    }


def _clear(id_A: Ints, text_A: Ints, time_A: Ints) -> Flags:
    """Whose id (of a prompt's answers) named their text before any other: joined prompts may have
    given one id to two texts."""
    order, start = runs(id_A, then=time_A)
    oldest_A = order[start[:-1]][id_A]
    is_own_A = text_A == text_A[oldest_A]
    is_contested_A = ~is_own_A & (time_A == time_A[oldest_A])
    clear_A: Flags = is_own_A & (np.bincount(id_A, is_contested_A) == 0)[id_A]
    return clear_A


def _replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), values)
