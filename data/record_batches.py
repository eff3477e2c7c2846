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

    Columns may be missing where they may be null, but not of another name or a type that is not
    just written differently.
    """
    names = set(batch.schema.names)
    kinds = batch["kind"].unique().to_pylist() if "kind" in names else []
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
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_string(kind) and not pa.types.is_large_string(values.type):
        return values if values.type == kind else None
    if pa.types.is_boolean(kind):
        return None  # Arrow would take any number for true
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None


def record_batch(rows: Sequence[Record]) -> pa.RecordBatch:
    """Validated records of one kind, with their choices as text."""
    schema = plain(FEEDBACK[rows[0]["kind"]])
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)
