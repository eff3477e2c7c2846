"""Rows out of JSON text: an object, or the reason why there is none."""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

Item = dict[str, Any]

DEEPEST = 200  # lists and objects in each other; beyond about 1,000 Python cannot follow
SPACE = re.compile(r"[ \t\r\n]*")


def parsed_object(text: bytes) -> Item | str:
    """The object in a piece of JSON, or the reason why there is none."""
    try:
        decoded = text.decode("utf-8")
        return _object_or_reason(STRICT.decode(decoded), decoded)
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"broken JSON: {_message(error)} at column {error.colno}"
    except ValueError as error:
        return _reason(error)
    except RecursionError:
        return "broken JSON: nested too deeply"


def listed_objects(text: str) -> Iterator[Item | str]:
    """The items of a JSON list, one after the other.

    Raises: json.JSONDecodeError where the text is no longer JSON.
    """
    place = _after_space(text, text.index("[") + 1)
    more = text[place : place + 1] != "]"
    while more:
        item, end = _item(text, place)
        yield item
        place = _after_space(text, end)
        more = text[place : place + 1] == ","
        place = _after_space(text, place + 1) if more else place
    if text[place : place + 1] != "]":
        raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
    if _after_space(text, place + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, place + 1)


def _item(text: str, place: int) -> tuple[Item | str, int]:
    """An item and where it ends; one that is JSON but no row of ours does not stop the others."""
    try:
        item, end = STRICT.raw_decode(text, place)
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(_message(error), text, error.pos) from None
    except ValueError as error:
        return _reason(error), LENIENT.raw_decode(text, place)[1]
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, place) from None
    return _object_or_reason(item, text[place:end]), end


def _object_or_reason(row: object, text: str) -> Item | str:
    """Only an escape, `\\ud800`, can bring half of a surrogate pair into UTF-8."""
    if not isinstance(row, dict):
        return f"a row must be an object like {{...}}, found a {type(row).__name__}"
    if text.count("{") + text.count("[") > DEEPEST and _is_deeper(row, DEEPEST):
        return f"nested too deeply: more than {DEEPEST} lists and objects in each other"
    if "\\u" in text and not is_unicode(row):
        return "half of a surrogate pair: this text has no UTF-8 form"
    return row


def is_unicode(row: Item) -> bool:
    """Python's strings may hold lone surrogates, which no tokenizer and no file takes."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_deeper(value: Item, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        inner = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
        level = [one for one in inner if isinstance(one, dict | list)]
    return bool(level)


def _after_space(text: str, place: int) -> int:
    match = SPACE.match(text, place)
    assert match is not None  # it may be empty
    return match.end()


def _message(error: json.JSONDecodeError) -> str:
    """Some of Python's end with a preposition."""
    return error.msg.removesuffix(" at")


def _reason(error: ValueError) -> str:
    """Of a number with too many digits, Python goes on to say how it may be told to read it."""
    return f"broken JSON: {str(error).split(';')[0]}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> Item:
    """An object whose keys differ: JSON leaves open which value of a repeated one counts."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice, ensure_ascii=False)[:60]} is there twice")
    return row


STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_distinct)
LENIENT = json.JSONDecoder(parse_int=str)
