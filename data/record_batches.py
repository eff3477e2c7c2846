"""Raw records as Arrow batches: each of one kind, in its schema, with its choices as text."""

from collections.abc import Sequence

import pyarrow as pa

from align.data.schemas import FEEDBACK, Record


def plain(schema: pa.Schema) -> pa.Schema:
    """The schema with its choices as text: a dictionary of int8 holds 128 of them in a column."""
    for place, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            schema = schema.set(place, field.with_type(field.type.value_type))
    return schema


def conformed(batch: pa.RecordBatch) -> pa.Table | None:
    """Records of one kind in its schema, with their choices as text; None if they need a look.

    Columns may be missing where they may be null, but not of another name, or of a type that the
    validator would refuse or a cast would change.
    """
    names = set(batch.schema.names)
    kind = _cast(batch["kind"], pa.string()) if "kind" in names else None
    kinds = [] if kind is None else kind.unique().to_pylist()
    if len(kinds) != 1 or kinds[0] not in FEEDBACK:
        return None
    schema = plain(FEEDBACK[kinds[0]])
    if names - set(schema.names):
        return None
    columns = []
    for field in schema:
        if field.name not in names:
            columns.append(pa.nulls(len(batch), field.type))
        elif (values := _cast(batch[field.name], field.type)) is not None:
            columns.append(values)
        else:
            return None
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    if values.type == kind:
        return values
    if not _is_alike(values.type, kind):
        return None
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None  # not lost: the rows are then validated one by one, which names the bad one


def _is_alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether the types only write the same differently, at any depth.

    Arrow would cast far more: a count of seconds to a time, any number to true, text to a number.
    """
    if found == wanted or pa.types.is_null(found):
        return True
    if pa.types.is_dictionary(found):
        return _is_alike(found.value_type, wanted)
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _is_alike(found.value_type, wanted.value_type)
    if pa.types.is_struct(wanted):
        return pa.types.is_struct(found) and all(
            wanted.get_field_index(part.name) >= 0
            and _is_alike(part.type, wanted.field(part.name).type)
            for part in found
        )
    if pa.types.is_timestamp(wanted):
        return bool(pa.types.is_timestamp(found) and found.tz is not None)
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(found) or pa.types.is_integer(found))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(found))
    is_text = pa.types.is_string_view(found) or pa.types.is_large_string(found)
    return bool(pa.types.is_string(wanted) and is_text)


def record_batch(rows: Sequence[Record]) -> pa.RecordBatch:
    """Validated records of one kind, with their choices as text."""
    schema = plain(FEEDBACK[rows[0]["kind"]])
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)
