"""What must hold of a preference table, over all of its rows at once.

`data/validate.py` says the same of a single row as Python objects. Legend: M rows.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import (
    Flags,
    Ints,
    first_of,
    flags_of,
    joint_codes,
    name_codes,
    numbers,
    one_array,
    ragged,
    text_codes,
)
from align.data.criteria import is_criterion
from align.data.messages import ROLES
from align.data.presence import PREFERENCE_NAMES, blank, incomplete, rows_with
from align.data.schemas import CHOICES, PREFERENCE

WEIGHT_TOLERANCE = 1e-6

Check = tuple[Flags, str, str]  # the rows that fail, the field, and the reason


class PairProblem(NamedTuple):
    """What is wrong with a row of the preference table."""

    row: int
    field: str
    reason: str


def pairs_problems(pairs: pa.Table) -> Iterator[PairProblem]:
    """What is wrong in a preference table, or in a part of one that holds whole prompts."""
    pairs = _with_text_choices(pairs)
    nulls = [(incomplete(pairs[f.name], f), f.name, "must not be null") for f in PREFERENCE]
    if not len(pairs) or any(bad.any() for bad, _, _ in nulls):
        checks: Iterator[Check] = iter(nulls)  # the others need values
    else:
        checks = chain(*(check(pairs) for check in CHECKS))
    for bad, field, reason in checks:
        for row in np.flatnonzero(bad).tolist():
            yield PairProblem(row, field, reason)


def _with_text_choices(pairs: pa.Table) -> pa.Table:
    """Dictionaries of different batches may have more words together than one can hold."""
    for place, field in enumerate(pairs.schema):
        if pa.types.is_dictionary(field.type):
            text = field.with_type(field.type.value_type)
            pairs = pairs.set_column(place, text, pairs[field.name].cast(text.type))
    return pairs


def _text_checks(pairs: pa.Table) -> Iterator[Check]:
    start_M1, messages = ragged(pairs["prompt"])
    yield _not_in(pairs["prompt"], messages.field("role"), ROLES), "prompt", "has another role"
    last = pa.array(start_M1[1:] - 1)
    asks = pc.is_in(messages.field("role").take(last), pa.array(["user", "tool"]))
    empty = blank(messages.field("content").take(last))
    yield _not(asks), "prompt", "the last turn of a prompt is user's or tool's"
    yield empty, "prompt", "the last turn of the prompt is empty"
    for side in ("chosen", "rejected"):
        role = ragged(pairs[side])[1].field("role")
        other = _not_in(pairs[side], role, ["assistant"])
        yield other | (_lengths(pairs[side]) != 1), side, "an answer is one assistant turn"


def _name_checks(pairs: pa.Table) -> Iterator[Check]:
    for name in PREFERENCE_NAMES:
        yield blank(pairs[name]), name, "must not be empty"


def _value_checks(pairs: pa.Table) -> Iterator[Check]:
    prob, margin, noise = (numbers(pairs[n]) for n in ("target_prob", "margin", "noise_prob"))
    chosen, rejected = one_array(pairs["chosen_id"]), one_array(pairs["rejected_id"])
    tie = prob == 0.5
    yield (prob < 0.5) | (prob > 1), "target_prob", "must be 0.5 to 1"
    yield (margin < 0) | (tie & (margin != 0)), "margin", "must be at least 0, and 0 for a tie"
    yield (noise < 0) | (noise >= 0.5), "noise_prob", "must be at least 0 and below 1/2"
    agreement = numbers(pairs["agreement"])
    yield (agreement < 0) | (agreement > 1), "agreement", "must be 0 to 1"
    yield numbers(pairs["n_annotators"]) < 1, "n_annotators", "must be at least 1"
    yield flags_of(pc.equal(chosen, rejected)), "rejected_id", "must differ from chosen_id"
    turned = tie & flags_of(pc.greater(chosen, rejected))
    yield turned, "chosen_id", "must be the smaller of the two ids in a tie"
    texts = [ragged(pairs[side])[1].field("content") for side in ("chosen", "rejected")]
    if len(texts[0]) == len(texts[1]) == len(pairs):
        yield flags_of(pc.equal(*texts)), "rejected", "must differ from chosen"
    for name in ("weight", "group_weight"):
        yield numbers(pairs[name]) <= 0, name, "must be above 0"
    yield _lengths(pairs["feedback_ids"]) == 0, "feedback_ids", "must name the feedback"
    for name in ("feedback_kind", "split"):
        values = one_array(pairs[name])
        yield _not(pc.is_in(values, pa.array(CHOICES[name]))), name, "is none of the choices"
    criterion, names = name_codes(one_array(pairs["criterion"]))
    known = np.array([is_criterion(name) for name in names.to_pylist()])
    yield ~known[criterion], "criterion", "is unknown"


def _table_checks(pairs: pa.Table) -> Iterator[Check]:
    names = {n: _codes(pairs, n) for n in ("group_id", "cluster_id", "split", "prompt_id")}
    group_M = names["group_id"]
    total_M = np.bincount(group_M, numbers(pairs["weight"]))[group_M]
    yield np.abs(total_M - 1) > WEIGHT_TOLERANCE, "weight", "the weights of a group sum to 1"
    size_M = one_array(pairs["group_size"]).to_numpy()
    yield size_M != np.bincount(group_M)[group_M], "group_size", "is not the size of the group"
    subject_M = joint_codes(names["prompt_id"], _codes(pairs, "criterion"))
    mixed_M = subject_M != subject_M[first_of(group_M)]
    yield mixed_M, "group_id", "the group holds another prompt or criterion"
    known_M = first_of(_codes(pairs, "pair_id")) != np.arange(len(pairs))
    yield known_M, "pair_id", "is the id of an earlier pair"
    split_M = names["split"]
    first_M = first_of(names["cluster_id"])
    yield split_M != split_M[first_M], "split", "the cluster is in two splits"
    both = pa.concat_arrays([one_array(pairs["chosen_id"]), one_array(pairs["rejected_id"])])
    chosen_M, rejected_M = np.split(text_codes(both), 2)
    low_M, high_M = np.minimum(chosen_M, rejected_M), np.maximum(chosen_M, rejected_M)
    topic_M = joint_codes(names["prompt_id"], _codes(pairs, "criterion"), low_M, high_M)
    again_M = first_of(topic_M) != np.arange(len(pairs))
    yield again_M, "pair_id", "the same pair, or the reversed one, is there too"


def provenance_problems(
    pairs: pa.Table, feedback_ids: pa.Array, gold: pa.Array
) -> Iterator[PairProblem]:
    """Pairs that rest on a record that is not there, or on a gold one (`gold` is by id)."""
    start_M1, named = ragged(pairs["feedback_ids"])
    place = pc.index_in(named, feedback_ids)
    is_gold = pc.fill_null(gold.take(place), False)
    lengths = np.diff(start_M1)
    for bad, reason in (
        (place.is_null(), "names a feedback that is not there"),
        (is_gold, "names gold feedback: it tests annotators and trains nothing"),
    ):
        for row in np.flatnonzero(rows_with(lengths, flags_of(bad))).tolist():
            yield PairProblem(row, "feedback_ids", reason)


def _codes(pairs: pa.Table, name: str) -> Ints:
    return text_codes(one_array(pairs[name]))


def _lengths(lists: pa.ChunkedArray) -> Ints:
    return np.diff(ragged(lists)[0])


def _not_in(lists: pa.ChunkedArray, items: pa.Array, known: list[str] | tuple[str, ...]) -> Flags:
    """Rows with an item that is not known."""
    return rows_with(_lengths(lists), _not(pc.is_in(items, pa.array(known))))


def _not(values: pa.Array) -> Flags:
    return ~flags_of(values)


CHECKS = (_text_checks, _name_checks, _value_checks, _table_checks)
