"""What must hold between raw records: an id names one feedback, one prompt, or one answer to it.

Legend: R records, A answers, N rows.
"""

from collections.abc import Mapping
from typing import NamedTuple

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

COMPARED = ["feedback_id", "prompt_id", "prompt", "cluster_id", "completion_ids", "completions"]


class Problem(NamedTuple):
    """What is wrong with a record: its kind, its row in the kind's table, field and reason."""

    kind: str
    row: int
    field: str
    reason: str


def consistent(
    tables: Mapping[str, pa.Table], repeated: Ints
) -> tuple[dict[str, pa.Table], list[Problem]]:
    """Records whose ids mean what they meant before, and what is wrong with the others.

    Tables hold all records of their prompts, with `arrival`, their place in the input; `repeated`
    are the arrivals of records with an earlier one's feedback_id.
    """
    parts = [one.select([*COMPARED, "arrival"]) for one in tables.values()]
    wrong = _contradictions(pa.concat_tables(parts).combine_chunks(), repeated) if parts else {}
    ends = np.cumsum([0, *(len(part) for part in parts)])
    problems = []
    for row in sorted(wrong):
        place = int(np.searchsorted(ends, row, side="right")) - 1
        problems.append(Problem(list(tables)[place], row - int(ends[place]), *wrong[row]))
    good = {
        kind: _without(one, {problem.row for problem in problems if problem.kind == kind})
        for kind, one in tables.items()
    }
    return {kind: one for kind, one in good.items() if len(one)}, problems


def _without(table: pa.Table, rows: set[int]) -> pa.Table:
    return table.take([row for row in range(len(table)) if row not in rows]) if rows else table


def _contradictions(table: pa.Table, repeated: Ints) -> dict[int, tuple[str, str]]:
    """Field and reason, by row."""
    arrival_R = one_array(table["arrival"]).to_numpy()
    prompt_R, _ = name_codes(one_array(table["prompt_id"]))
    good_R = ~np.isin(arrival_R, repeated)
    wrong = {
        row: ("feedback_id", f"{table['feedback_id'][row].as_py()} is the id of an earlier row")
        for row in np.flatnonzero(~good_R).tolist()
    }
    for field, meaning_R, reason in (
        ("prompt_id", prompt_codes(table), "{} is the id of another prompt"),
        ("cluster_id", _cluster_codes(table), "prompt {} is in another cluster in an earlier row"),
    ):
        other_R = good_R & (meaning_R != meaning_R[_earliest(prompt_R, arrival_R, good_R)])
        good_R &= ~other_R
        for row in np.flatnonzero(other_R).tolist():
            wrong[row] = (field, reason.format(table["prompt_id"][row].as_py()))
    start_R1, names = ragged(table["completion_ids"])
    record_A = np.repeat(np.arange(len(table)), np.diff(start_R1))
    answer_A = joint_codes(prompt_R[record_A], name_codes(names)[0])
    text_A, good_A = text_codes(texts_of(table["completions"])), good_R[record_A]
    first_A = _earliest(answer_A, arrival_R[record_A], good_A)
    for place in np.flatnonzero(good_A & (text_A != text_A[first_A])).tolist():
        reason = f"{names[place].as_py()} is the id of another answer to this prompt"
        wrong.setdefault(int(record_A[place]), ("completion_ids", reason))
    return wrong


def _earliest(group_N: Ints, arrival_N: Ints, good_N: Flags) -> Ints:
    """For each row, the good row of its group that came first."""
    order, start = runs(group_N, then=np.where(good_N, arrival_N, np.iinfo(np.int64).max))
    earliest = np.empty(len(order), dtype=np.int64)
    earliest[order] = np.repeat(order[start[:-1]], np.diff(start))
    return earliest


def prompt_codes(table: pa.Table | pa.RecordBatch) -> Ints:
    """A number for each different list of messages."""
    start_R1, messages = ragged(table["prompt"])
    message = joint_codes(*(text_codes(messages.field(name)) for name in ("role", "content")))
    length_R = np.diff(start_R1)
    codes_R = length_R
    for turn in range(int(length_R.max(initial=0))):
        place = np.minimum(start_R1[:-1] + turn, len(message) - 1)
        codes_R = joint_codes(codes_R, np.where(turn < length_R, message[place], -1))
    return codes_R


def _cluster_codes(table: pa.Table) -> Ints:
    """A number for each cluster; a prompt without one is its own."""
    return text_codes(pc.coalesce(one_array(table["cluster_id"]), one_array(table["prompt_id"])))
