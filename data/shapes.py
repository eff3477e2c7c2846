"""The types of an Arrow schema, as checks on Python values.

pyarrow does not enforce `nullable=False` and names no row when a type is wrong, so we look
ourselves, at any depth. A problem is (field, reason), such as ("prompt[0].role", "must not be
null").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from align.data.messages import shown

LARGEST = 3.4e38  # of a 32-bit float; also nan and infinity are larger than it, as they compare

Problem = tuple[str, str]
Problems = Iterator[Problem]
Sort = Literal["list", "struct", "text", "flag", "time", "whole", "number"]


@dataclass(frozen=True)
class Shape:
    """What a value must be. Built once per column: asking pyarrow for each value is slow."""

    sort: Sort
    nullable: bool
    limit: int = 0  # whole numbers go from -limit to limit - 1
    parts: tuple[tuple[str, "Shape"], ...] = ()  # a struct's fields, or a list's one item
    names: frozenset[str] = frozenset()  # of a struct's fields

    def fits(self, value: Any) -> bool:
        """Whether `problems` has nothing to say; several times as fast, and most values fit."""
        if value is None:
            return self.nullable
        if self.sort == "text":
            return isinstance(value, str)
        if self.sort == "list":
            return isinstance(value, list) and all(map(self.parts[0][1].fits, value))
        if self.sort == "struct":
            return (
                isinstance(value, dict)
                and value.keys() <= self.names
                and all(shape.fits(value.get(part)) for part, shape in self.parts)
            )
        return self._wanted(value) is None

    def problems(self, name: str, value: Any) -> Problems:
        """Nulls and wrong types in a value and in all that is in it."""
        if value is None:
            if not self.nullable:
                yield name, "must not be null"
        elif self.sort == "list":
            yield from self._list_problems(name, value)
        elif self.sort == "struct":
            yield from self._struct_problems(name, value)
        elif (wanted := self._wanted(value)) is not None:
            yield name, f"must be {wanted}, found {shown(value)}"

    def _list_problems(self, name: str, value: Any) -> Problems:
        if not isinstance(value, list):
            yield name, f"must be a list, found {shown(value)}"
            return
        item = self.parts[0][1]
        for place, one in enumerate(value):
            yield from item.problems(f"{name}[{place}]", one)

    def _struct_problems(self, name: str, value: Any) -> Problems:
        if not isinstance(value, dict):
            yield name, f"must be an object, found {shown(value)}"
            return
        for part, shape in self.parts:
            yield from shape.problems(f"{name}.{part}", value.get(part))
        for part in value.keys() - {part for part, _ in self.parts}:
            yield f"{name}.{part}", "unknown field"

    def _wanted(self, value: Any) -> str | None:
        """What a single value should have been, or None if it is."""
        if self.sort == "text":
            return None if isinstance(value, str) else "text"
        if self.sort == "flag":
            return None if isinstance(value, bool) else "true or false"
        if self.sort == "time":
            is_time = isinstance(value, datetime) and value.tzinfo is not None
            return None if is_time else "a time with a zone like 2026-01-31T12:00:00Z"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        if self.sort == "number":
            return None if abs(value) <= LARGEST else "a number that fits 32 bits"
        is_whole = isinstance(value, int) and -self.limit <= value < self.limit
        return None if is_whole else f"a whole number below {self.limit}"


def shapes_of(schema: pa.Schema) -> dict[str, Shape]:
    """The shape of every column."""
    return {column.name: _shape(column) for column in schema}


def _shape(column: pa.Field) -> Shape:
    kind, nullable = column.type, column.nullable
    if pa.types.is_list(kind):
        return Shape("list", nullable, parts=(("item", _shape(kind.value_field)),))
    if pa.types.is_struct(kind):
        parts = tuple((part.name, _shape(part)) for part in kind)
        return Shape("struct", nullable, parts=parts, names=frozenset(name for name, _ in parts))
    if pa.types.is_integer(kind):
        return Shape("whole", nullable, limit=2 ** (kind.bit_width - 1))
    if pa.types.is_boolean(kind):
        return Shape("flag", nullable)
    if pa.types.is_timestamp(kind):
        return Shape("time", nullable)
    return Shape("number" if pa.types.is_floating(kind) else "text", nullable)
