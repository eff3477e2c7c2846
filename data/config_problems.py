"""Pydantic's complaints about a YAML file, as lines that a person can act on.

Each line says the place (`file:line`, or the `--set` text), the key, what is wrong and the value.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from align.data.config import Section
from align.data.core_yaml import Key

Places: TypeAlias = dict[Key, str]
"""Where each key was said: `file:line`, or the `--set` text. The empty key is the file itself."""


def explain(error: ValidationError, tree: Any, places: Places, root: type[Section]) -> list[str]:
    """One line for each key that has a problem, in the order of the sections.

    `tree` is what the user wrote, as plain data, and `root` the section that it should have been.
    """
    problems: dict[Key, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        problems.setdefault(_key(detail, tree), []).append(detail)
    texts = {key: _what_is_wrong(details, root) for key, details in problems.items()}
    return [f"{_place(key, text, places)}: {_named(key, text)}" for key, text in texts.items()]


def section_in(annotation: Any) -> type[Section] | None:
    """The section that `Section`, `Section | None` or `tuple[Section, ...]` names."""
    sections = (kind for kind in alternatives(annotation) if isinstance(kind, type))
    return next((kind for kind in sections if issubclass(kind, Section)), None)


def alternatives(annotation: Any) -> set[Any]:
    """The types that `A | B | None` or `tuple[A, ...]` is made of."""
    parts = get_args(annotation)
    return {annotation} if not parts else set().union(*map(alternatives, parts))


def dotted(key: Key) -> str:
    """`("data", "feedback", 0)` -> `data.feedback.0`."""
    return ".".join(str(part) for part in key)


def shown(value: Any) -> str:
    """A value as the user would write it, cut to fit a line."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _what_is_wrong(details: Sequence[ErrorDetails], root: type[Section]) -> str:
    """`details` are several where the key may hold one of several types, and holds none of them."""
    first = details[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return "is missing"
    if first["type"] == "extra_forbidden":
        section = _section_at(first["loc"][:-1], root)
        name = str(first["loc"][-1])
        return section.REFUSED.get(name) or _unknown_key(name, section.model_fields)
    allowed = " or ".join(dict.fromkeys(map(_allowed, details)))
    return f"must {allowed}, not {shown(first['input'])}"


def _allowed(detail: ErrorDetails) -> str:
    if detail["type"] == "model_type":
        return "hold keys"
    if detail["type"] == "string_pattern_mismatch":
        return f"match {detail['ctx']['pattern']}"
    return detail["msg"].replace("Input should ", "").replace("valid array", "list")


def _unknown_key(name: str, known: Mapping[str, object]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
    return f"unknown key; {hint}"


def _section_at(loc: Sequence[str | int], section: type[Section]) -> type[Section]:
    """The section at `loc` in `section`.

    `loc` also has list positions and pydantic's names for the parts of a union.
    """
    for part in loc:
        if isinstance(part, str) and part in section.model_fields:
            section = section_in(section.model_fields[part].annotation) or section
    return section


def _key(detail: ErrorDetails, tree: Any) -> Key:
    """The key as the user knows it: pydantic adds the alternative of a union that it tried."""
    loc = detail["loc"]
    if detail["type"] in ("missing", "extra_forbidden"):
        return loc
    for depth, part in enumerate(loc):
        if isinstance(tree, dict):
            inside = part in tree
        else:
            inside = isinstance(tree, list) and isinstance(part, int)
        if not inside:
            return loc[:depth]
        tree = tree[part]
    return loc


def _place(key: Key, text: str, places: Places) -> str:
    """Where `key`, or the section that it is missing from, was said.

    Of two keys that clash, the one from the command line is the one to look at.
    """
    for clashing, place in places.items():
        if place.startswith("--set ") and len(clashing) > len(key) and dotted(clashing) in text:
            return place
    said = (key[:length] for length in range(len(key), -1, -1) if key[:length] in places)
    return places[next(said)]


def _named(key: Key, text: str) -> str:
    """The problem with its key in front, unless the text opens with it (two keys that clash)."""
    name = dotted(key)
    return text if not name or text.startswith(f"{name}.") else f"{name}: {text}"
