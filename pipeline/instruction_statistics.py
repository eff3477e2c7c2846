"""What SFT will see of each source and task: rows, draws, tokens, copies, cuts and templates."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from align.data.arrays import Ints
from align.data.mixture.caps import firsts
from align.data.mixture.choose import by_source
from align.data.mixture.store import BATCH, Store, concatenated
from align.pipeline.instruction_build import Mixed
from align.pipeline.instruction_encode import Sources

NUMBERS = ("rows", "used", "draws", "tokens", "duplicates", "truncated")
"""Of a source, task, template or licence; `tokens` are those drawn."""
COLUMNS = {"tasks": "task_id", "templates": "template_id", "licenses": "license"}
EXAMPLES = 64
"""Rows of a source that are shown and whose wording is compared."""
SEARCHED = 2000
"""Rows in which each task and template is looked for."""


def statistics_of(sources: Sources, plan: Mixed, drawn: Sequence[Ints]) -> list[dict[str, Any]]:
    """One entry a source, with its tasks, templates and licences by name.

    `drawn` says how often each row of a source was written.
    """
    new = _first_copies(sources.train)
    entries = []
    for place, name in enumerate(sources.names):
        store, rows = sources.train[place], plan.chosen[place]
        used = np.arange(len(store)) if rows is None else rows
        named = _totals(store, used, new[place], drawn[place])
        entries.append(
            {
                "source": name,
                "held_out": len(sources.test[place]),
                "too_long": sources.too_long[place],
                **_sum(named["task_id"].values()),
                "tokens_of_rows": store.tokens(),
                "learnt": store.learnt_tokens(),
                "labels": _labels(store),
                **{key: _by_draws(named[column]) for key, column in COLUMNS.items()},
                "examples": _examples(store, used),
            }
        )
    return entries


def _examples(store: Store, used: Ints) -> list[dict[str, Any]]:
    """Some of the used rows, evenly over the source, and the first of each task and template."""
    names = ("task_id", "template_id", "license")
    rows = {int(row) for row in used[:: max(1, len(used) // EXAMPLES)][:EXAMPLES]}
    seen: set[tuple[str, ...]] = set()
    for row in used[:SEARCHED].tolist():
        wording = tuple(store.names(name)[row].as_py() for name in names[:2])
        if wording not in seen and len(seen) < EXAMPLES:
            seen.add(wording)
            rows.add(row)
    return [
        {name: store.names(name)[row].as_py() for name in names} | vars(store.encoded(row))
        for row in sorted(rows)
    ]


def _first_copies(stores: Sequence[Store]) -> list[Ints]:
    """Rows of each store whose prompt and answer did not stand before, in it or an earlier one."""
    return by_source(firsts(concatenated(stores, "content")), stores)


def _totals(store: Store, used: Ints, new: Ints, draws_N: Ints) -> dict[str, dict[str, Ints]]:
    """NUMBERS of the rows with each value of each of COLUMNS."""
    used_N, copy_N = np.zeros(len(store), dtype=bool), np.ones(len(store), dtype=bool)
    used_N[used], copy_N[new] = True, False
    totals: dict[str, dict[str, Ints]] = {name: {} for name in COLUMNS.values()}
    for number, batch in enumerate(store.table.to_batches()):
        mine = slice(number * BATCH, number * BATCH + len(batch))
        draws, length = draws_N[mine], store.lengths(number)
        cut = batch.column("truncated").to_numpy(zero_copy_only=False)
        columns = [np.ones_like(draws), used_N[mine], draws, draws * length, copy_N[mine], cut]
        numbers = np.stack(columns, axis=1).astype(np.int64)
        for name, total in totals.items():
            values = batch.column(name).dictionary_encode()
            sums = np.zeros((len(values.dictionary), len(NUMBERS)), dtype=np.int64)
            np.add.at(sums, values.indices.to_numpy(), numbers)
            for value, one in zip(values.dictionary.to_pylist(), sums, strict=True):
                total[value] = total.get(value, 0) + one
    return totals


def _sum(numbers: Iterable[Ints]) -> dict[str, int]:
    total = sum(numbers, np.zeros(len(NUMBERS), dtype=np.int64))
    return dict(zip(NUMBERS, total.tolist(), strict=True))


def _by_draws(numbers: dict[str, Ints]) -> dict[str, dict[str, int]]:
    """The values that are drawn most often first."""
    counts = {value: _sum([one]) for value, one in numbers.items()}
    return dict(sorted(counts.items(), key=lambda item: -item[1]["draws"]))


def _labels(store: Store) -> dict[str, dict[str, int]]:
    """Of each task with classes, the rows of each class."""
    counts: dict[str, Counter[str]] = {}
    for first in range(0, len(store), BATCH):
        columns = (
            store.names(name).slice(first, BATCH).to_pylist() for name in ("task_id", "label")
        )
        for task, label in zip(*columns, strict=True):
            if label:
                counts.setdefault(task, Counter())[label] += 1
    return {task: dict(labels.most_common()) for task, labels in counts.items()}
