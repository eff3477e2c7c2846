"""Which rows of an Arrow column lack a value that they must have, at any depth.

pyarrow does not enforce `nullable=False`, and takes nan where a number must be. A name that is
blank, such as " ", names nothing.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import Flags, Ints, flags_of, one_array
from align.data.messages import VISIBLE

# Texts, and lists of texts, that name or say something: none of them may be blank.
NAMES = (
    "feedback_id",
    "prompt_id",
    "cluster_id",
    "completion_ids",
    "annotator_id",
    "guideline_version",
    "source",
)
OWN_NAMES: dict[str, tuple[str, ...]] = {
    "best_of": (),
    "ranking": (),
    "comparison": ("player_a", "player_b"),
    "question": ("questionnaire_version",),
    "rule": ("rule_text", "ruleset_version"),  # and rule_id, which its criterion names
    "rbrm": ("rubric_id", "rubric_version", "judge_id", "option_ids"),
}
PREFERENCE_NAMES = (
    "group_id",
    "pair_id",
    "prompt_id",
    "cluster_id",
    "chosen_id",
    "rejected_id",
    "feedback_ids",
    "annotator_ids",
)


def incomplete(column: pa.Array | pa.ChunkedArray, field: pa.Field) -> Flags:
    """Rows with a null that `field` forbids, or with a number that is not finite."""
    values = one_array(column)
    is_null = flags_of(values.is_null())
    bad = np.zeros(len(values), dtype=bool) if field.nullable else is_null.copy()
    if pa.types.is_list(field.type):
        bad |= rows_with(_lengths(values), incomplete(values.flatten(), field.type.value_field))
    elif pa.types.is_struct(field.type):
        for place, part in enumerate(field.type):
            bad |= ~is_null & incomplete(values.field(place), part)
    elif pa.types.is_floating(field.type):
        bad |= flags_of(pc.invert(pc.is_finite(values)).fill_null(False))
    return bad


def blank(column: pa.Array | pa.ChunkedArray) -> Flags:
    """Rows of texts, or of lists of texts, with one in which there is nothing to see.

    Null is none.
    """
    values = one_array(column)
    if pa.types.is_list(values.type):
        return rows_with(_lengths(values), blank(values.flatten()))
    return ~flags_of(pc.match_substring_regex(values, VISIBLE).fill_null(True))


def _lengths(lists: pa.ListArray) -> Ints:
    """The number of items of each row; 0 for null."""
    lengths: Ints = pc.list_value_length(lists).fill_null(0).to_numpy()
    return lengths


def rows_with(lengths: Ints, bad_items: Flags) -> Flags:
    """Rows that have a bad item, from the number of items of each row."""
    before = np.concatenate([[0], np.cumsum(bad_items)])
    ends = np.cumsum(lengths)
    found: Flags = before[ends] > before[ends - lengths]
    return found
