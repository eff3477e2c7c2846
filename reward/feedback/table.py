"""Pairs as rows of the preference table, with where each came from.

Columns are taken from those of the records: no text becomes a Python object. Legend: as in
`pairs.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import (
    Ints,
    joint_codes,
    name_codes,
    one_array,
    ragged,
    runs,
)
from align.data.messages import sha256_of
from align.data.schemas import CHOICE, PREFERENCE
from align.reward.feedback.pair_ids import hexadecimal, pair_digests
from align.reward.feedback.pairs import Pairs, picked
from align.reward.feedback.pool import Pool
from align.reward.feedback.truth import Truth, noise_of

MOST_ANNOTATORS = 2**15 - 1  # that the column can count
CHOICES = 2**7  # different values that a column of choices can hold in a batch
ROWS = 2**16  # of a batch


@dataclass(frozen=True)
class Provenance:
    """What goes with every pair, besides its records."""

    assigned: Callable[[pa.Array, pa.Array], tuple[pa.Array, pa.Array]]  # by prompt and cluster
    truth: Truth | None  # what annotators are known to be right about
    converters: Mapping[str, tuple[str, str]]  # by kind: name and version, hash of the options


@dataclass(frozen=True)
class Sorted:
    """All pairs in the order of prompt, criterion, source and pair_id."""

    pairs: Pairs
    names: dict[str, pa.Array]  # columns of ids, by name
    size_M: Ints  # pairs in the group of each

    def part(self, begin: int, end: int) -> "Sorted":
        """Some of the rows that follow each other."""
        return Sorted(
            picked(self.pairs, np.arange(begin, end)),
            {name: column.slice(begin, end - begin) for name, column in self.names.items()},
            self.size_M[begin:end],
        )


def preference_batches(
    pool: Pool, pairs: Pairs, provenance: Provenance
) -> Iterator[pa.RecordBatch]:
    """Rows of the preference table.

    Weights are 1/|P| over the pairs of a group, so that every prompt has the same mass.
    """
    rows = _sorted(pool, pairs)
    for begin, end in _cuts(pool.criterion_R[rows.pairs.first_M], 0, len(rows.pairs)):
        part = rows.part(begin, end)
        columns = part.names | _texts(pool, part) | _numbers(part)
        columns |= _provenance(pool, part, provenance)
        arrays = [_of_type(columns[field.name], field.type) for field in PREFERENCE]
        yield pa.RecordBatch.from_arrays(arrays, schema=PREFERENCE)


def _sorted(pool: Pool, pairs: Pairs) -> Sorted:
    names = _names(pool, pairs)
    digests = pair_digests(
        *(names[n] for n in ("prompt_id", "chosen_id", "rejected_id", "criterion"))
    )
    group_R = joint_codes(pool.prompt_R, pool.criterion_R, pool.source_R)
    prefix_M = np.frombuffer(digests, dtype=">u8")[::4].astype(np.uint64)
    order, start_G1 = runs(group_R[pairs.first_M], then=prefix_M)
    names = {name: column.take(pa.array(order)) for name, column in names.items()}
    return Sorted(
        picked(pairs, order),
        names | {"pair_id": hexadecimal(digests).take(pa.array(order))},
        np.repeat(np.diff(start_G1), np.diff(start_G1)),
    )


def _cuts(criterion_M: Ints, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Parts that fit a batch."""
    if end - begin <= ROWS and len(np.unique(criterion_M[begin:end])) <= CHOICES:
        if end > begin:
            yield begin, end
        return
    middle = (begin + end) // 2
    yield from _cuts(criterion_M, begin, middle)
    yield from _cuts(criterion_M, middle, end)


def _names(pool: Pool, pairs: Pairs) -> dict[str, pa.Array]:
    first = pa.array(pairs.first_M)
    ids = pool.answer_ids
    table = {
        name: one_array(pool.table[name]).take(first)
        for name in ("prompt_id", "cluster_id", "criterion", "source", "rule_id")
    }
    group = pc.binary_join_element_wise(
        table["prompt_id"], table["criterion"], table["source"], "|"
    )
    chosen, rejected = ids.take(pa.array(pairs.chosen_M)), ids.take(pa.array(pairs.rejected_M))
    return table | {
        "group_id": group,
        "chosen_id": chosen,
        "rejected_id": rejected,
    }


def _texts(pool: Pool, part: Sorted) -> dict[str, pa.Array]:
    _, answers = ragged(pool.table["completions"])
    return {
        "prompt": one_array(pool.table["prompt"]).take(pa.array(part.pairs.first_M)),
        "chosen": answers.take(pa.array(part.pairs.chosen_M)),
        "rejected": answers.take(pa.array(part.pairs.rejected_M)),
    }


def _numbers(part: Sorted) -> dict[str, pa.Array]:
    pairs = part.pairs
    return {
        "margin": pa.array(pairs.margin_M),
        "target_prob": pa.array(pairs.prob_M),
        "weight": pa.array(1 / part.size_M),
        "group_weight": pa.array(pairs.group_weight_M),
        "group_size": pa.array(part.size_M),
        "agreement": pa.array(pairs.agreement_M, from_pandas=True),
        "score_chosen": pa.array(pairs.score_chosen_M, from_pandas=True),
        "score_rejected": pa.array(pairs.score_rejected_M, from_pandas=True),
    }


def _provenance(pool: Pool, part: Sorted, provenance: Provenance) -> dict[str, pa.Array]:
    pairs, table = part.pairs, pool.table
    names = part.names
    cluster, split = provenance.assigned(names["prompt_id"], names["cluster_id"])
    count = len(pairs)
    start_M1 = np.searchsorted(pairs.owner_E, np.arange(count + 1))
    feedback = one_array(table["feedback_id"]).take(pa.array(pairs.record_E))
    annotator_R, annotators = name_codes(one_array(table["annotator_id"]))
    order, start_E1 = runs(pairs.owner_E, annotator_R[pairs.record_E])
    once = order[start_E1[:-1]]
    annotators_M = np.bincount(pairs.owner_E[once], minlength=count)
    people_M = np.bincount(pairs.owner_E[once], pool.person_R[pairs.record_E[once]], count)
    counted_M = np.where(people_M > 0, people_M, annotators_M).astype(np.int64)
    time_R = one_array(table["created_at"]).cast(pa.int64()).to_numpy()
    newest = np.maximum.reduceat(time_R[pairs.record_E], start_M1[:-1])
    converter, config = _converters(pool, pairs, provenance)
    return {
        "feedback_kind": pa.array(pool.kinds).take(pa.array(pool.kind_R[pairs.first_M])),
        "feedback_ids": _lists(start_M1, feedback),
        "annotator_ids": _lists(
            np.concatenate([[0], np.cumsum(annotators_M)]),
            annotators.take(pa.array(annotator_R[pairs.record_E[once]])),
        ),
        # A model is counted where no person judged.
        "n_annotators": pa.array(np.minimum(counted_M, MOST_ANNOTATORS)),
        "noise_prob": _noise(pool, part, provenance.truth),
        "cluster_id": cluster,
        "split": split,
        "converter": converter,
        "converter_config_sha256": config,
        "guideline_version": _common(one_array(table["guideline_version"]), pairs, start_M1),
        "created_at": pa.array(newest).cast(pa.timestamp("us", tz="UTC")),
    }


def _noise(pool: Pool, part: Sorted, truth: Truth | None) -> pa.Array:
    """How likely each label is wrong; null where nothing is known, for ties, which have no
    direction, and for verdicts of hard rules, which no vote can doubt."""
    if truth is None:
        return pa.nulls(len(part.pairs), pa.float32())
    smaller = pc.less(part.names["chosen_id"], part.names["rejected_id"])
    smaller_M = smaller.to_numpy(zero_copy_only=False)
    certain_M = (part.pairs.prob_M == 0.5) | pool.verdict_R[part.pairs.first_M]
    return noise_of(truth, part.names["pair_id"], smaller_M, certain_M)


def _lists(start_M1: Ints, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(start_M1.astype(np.int32)), values)


def _common(names: pa.Array, pairs: Pairs, start_M1: Ints) -> pa.Array:
    """The name that all records of a pair share; null where they differ."""
    codes_R, distinct = name_codes(names)
    codes_E = codes_R[pairs.record_E]
    low = np.minimum.reduceat(codes_E, start_M1[:-1])
    high = np.maximum.reduceat(codes_E, start_M1[:-1])
    return distinct.take(pa.array(low, mask=low != high))


def _converters(pool: Pool, pairs: Pairs, provenance: Provenance) -> tuple[pa.Array, pa.Array]:
    """Name and configuration of the converters of each pair's kinds."""
    bits, which = np.unique(pairs.kinds_M, return_inverse=True)
    names, hashes = [], []
    for mask in bits.tolist():
        made = [provenance.converters[kind] for i, kind in enumerate(pool.kinds) if mask >> i & 1]
        names.append("+".join(sorted(name for name, _ in made)))
        configs = sorted(config for _, config in made)
        hashes.append(configs[0] if len(configs) == 1 else sha256_of(configs))
    return pa.array(names).take(pa.array(which)), pa.array(hashes).take(pa.array(which))


def _of_type(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if kind == CHOICE:
        codes, names = name_codes(values)
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), names)
    if pa.types.is_list(kind) and values.type != kind:
        return pa.ListArray.from_arrays(values.offsets, values.values, type=kind)
    return values.cast(kind)
