"""Which rows of an Arrow column lack a value that their schema demands, at any depth.

pyarrow does not enforce `nullable=False`, and takes nan where a number must be.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import Flags, Ints, one_array


def incomplete(column: pa.Array | pa.ChunkedArray, field: pa.Field) -> Flags:
    """Rows with a null that `field` forbids, or with a number that is not finite."""
    values = one_array(column)
    is_null: Flags = values.is_null().to_numpy(zero_copy_only=False)
    bad = np.zeros(len(values), dtype=bool) if field.nullable else is_null.copy()
    if pa.types.is_list(field.type):
        bad |= rows_with(_lengths(values), incomplete(values.flatten(), field.type.value_field))
    elif pa.types.is_struct(field.type):
        for place, part in enumerate(field.type):
            bad |= ~is_null & incomplete(values.field(place), part)
    elif pa.types.is_floating(field.type):
        bad |= pc.invert(pc.is_finite(values)).fill_null(False).to_numpy(zero_copy_only=False)
    return bad


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
