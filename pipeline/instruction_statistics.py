"""What SFT will see of each source and task: rows, draws, tokens, copies, cuts and templates."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from align.data.arrays import Ints
from align.data.mixture.caps import firsts
from align.data.mixture.store import BATCH, Store, concatenated
from align.pipeline.instruction_build import Mixed
from align.pipeline.instruction_encode import Sources

EXAMPLES = 64
"""Rows of a source that are shown and whose wording is compared."""
SEARCHED = 2000
"""Rows in which each task and template is looked for."""


def statistics_of(sources: Sources, plan: Mixed) -> list[dict[str, Any]]:
    """One entry a source, with its tasks and templates by name."""
    draws = _draws(sources, plan)
    copies = _copies(sources.train)
    entries = []
    for place, name in enumerate(sources.names):
        store, rows = sources.train[place], plan.chosen[place]
        used = np.arange(len(store)) if rows is None else rows
        entries.append(
            {
                "source": name,
                "rows": len(store),
                "held_out": len(sources.test[place]),
                "too_long": sources.too_long[place],
                "used": len(used),
                "draws": draws[place],
                "tokens": round(draws[place] * store.tokens(rows) / max(len(used), 1)),
                "tokens_of_rows": store.tokens(),
                "learnt": store.learnt_tokens(),
                "labels": _labels(store),
                "truncated": int(store.table.column("truncated").to_numpy().sum()),
                "duplicates": copies[place],
                "tasks": _counts(store, "task_id", used),
                "templates": _counts(store, "template_id", used),
                "licenses": _counts(store, "license", used),
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


def _draws(sources: Sources, plan: Mixed) -> list[int]:
    if plan.plan is None:
        return [len(store) for store in sources.train]
    return [int(count) for count in plan.plan.draws_M]


def _copies(stores: Sequence[Store]) -> list[int]:
    """Rows of each store whose prompt and answer stood before, in it or an earlier one."""
    new = firsts(concatenated(stores, "content"))
    ends = np.cumsum([len(store) for store in stores])
    first_rows = np.diff(np.searchsorted(new, ends), prepend=0)
    return [len(store) - int(n) for store, n in zip(stores, first_rows, strict=True)]


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


def _counts(store: Store, name: str, used: Ints) -> dict[str, int]:
    """How many of the used rows have each value, the most frequent first."""
    counts: Counter[str] = Counter()
    column = store.names(name)
    for first in range(0, len(store), BATCH):
        mine = used[(used >= first) & (used < first + BATCH)]
        counts.update(column.slice(first, BATCH).take(mine - first).to_pylist())
    return dict(counts.most_common())
