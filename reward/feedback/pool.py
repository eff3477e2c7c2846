"""The records and opinions of all kinds behind one another, on common axes.

Legend: R records, A answers that they judge, O opinions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import Flags, Ints, name_codes, one_array, ragged, text_codes, texts_of
from align.data.record_batches import plain
from align.data.schemas import FEEDBACK
from align.reward.feedback.opinions import Opinions, answer_codes, joined, owners

COLUMNS = (
    *("feedback_id", "prompt_id", "prompt", "cluster_id", "completions", "completion_ids"),
    *("criterion", "annotator_id", "annotator_kind", "guideline_version", "created_at", "source"),
)
SHARED = pa.schema(
    [plain(FEEDBACK["rule"]).field(n).with_nullable(True) for n in (*COLUMNS, "rule_id")]
)


@dataclass(frozen=True)
class Judged:
    """Records of one kind and what they say."""

    kind: str
    table: pa.Table
    opinions: Opinions
    verdict: bool = False  # of the hard rules, to be merged with nothing


@dataclass(frozen=True)
class Pool:
    """Names are numbers that order like the names; `text_A` only tells texts apart."""

    table: pa.Table  # the columns that all kinds have, and rule_id
    kinds: list[str]  # in order
    criteria: list[str]
    answer_ids: pa.Array  # A
    kind_R: Ints
    feedback_R: Ints
    prompt_R: Ints
    criterion_R: Ints
    source_R: Ints
    person_R: Flags  # judged by no model
    verdict_R: Flags
    record_A: Ints
    answer_A: Ints
    text_A: Ints
    opinions: Opinions


def pooled(judged: Sequence[Judged]) -> Pool:
    """All records and opinions, in the order given."""
    tables = [_shared_columns(one.table) for one in judged]
    table = pa.concat_tables(tables).combine_chunks()
    kinds = sorted({one.kind for one in judged})
    place = [kinds.index(one.kind) for one in judged]
    rows = [len(part) for part in tables]
    verdict_R = np.repeat([one.verdict for one in judged], rows)
    feedback_R, prompt_R, source_R = (
        name_codes(one_array(table[name]))[0] for name in ("feedback_id", "prompt_id", "source")
    )
    criterion_R, criteria = name_codes(one_array(table["criterion"]))
    start_R1, answer_ids = ragged(table["completion_ids"])
    return Pool(
        table=table,
        kinds=kinds,
        criteria=[*criteria.to_pylist(), "hard rules"],
        answer_ids=answer_ids,
        kind_R=np.repeat(np.array(place, dtype=np.int64), rows),
        feedback_R=feedback_R,
        prompt_R=prompt_R,
        criterion_R=np.where(verdict_R, len(criteria), criterion_R),
        source_R=source_R,
        person_R=pc.not_equal(one_array(table["annotator_kind"]), "model").to_numpy(False),
        verdict_R=verdict_R,
        record_A=owners(start_R1),
        answer_A=answer_codes(table),
        text_A=text_codes(texts_of(table["completions"])),
        opinions=_stacked(judged),
    )


def _shared_columns(table: pa.Table) -> pa.Table:
    if "rule_id" not in table.column_names:
        table = table.append_column("rule_id", pa.nulls(len(table), pa.string()))
    return pa.Table.from_arrays([table[name] for name in SHARED.names], schema=SHARED)


def _stacked(judged: Sequence[Judged]) -> Opinions:
    """Opinions on different tables, as opinions on the tables behind one another."""
    before_R, before_A, stacked = 0, 0, []
    for one in judged:
        said = one.opinions
        stacked.append(
            replace(
                said,
                first_O=said.first_O + before_A,
                second_O=said.second_O + before_A,
                record_E=said.record_E + before_R,
            )
        )
        before_R += len(one.table)
        before_A += int(ragged(one.table["completion_ids"])[0][-1])
    return joined(*stacked)
