"""Writes docs/config.md and docs/config.schema.json from the config models.

    python -m align.pipeline.reference           write both
    python -m align.pipeline.reference --check   exit 2 when one is stale

`make check` runs the second.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from align.data.config import Section
from align.data.config_problems import section_in
from align.data.core_yaml import dump
from align.pipeline.config import RunConfig

DOCS = Path(__file__).parent.parent / "docs"
BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": ">= {}",
    "exclusiveMaximum": "< {}",
    "maximum": "<= {}",
    "pattern": "`{}`",
}


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them; the exit code."""
    texts = {DOCS / "config.md": markdown(), DOCS / "config.schema.json": schema()}
    if arguments != ["--check"]:
        DOCS.mkdir(exist_ok=True)
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8")
        return 0
    stale = [file for file, text in texts.items() if _content(file) != text]
    for file in stale:
        print(f"{file}: is stale; run `python -m align.pipeline.reference`", file=sys.stderr)
    return 2 if stale else 0


def schema() -> str:
    """The JSON schema of a config file; editors complete and check YAML with it."""
    text = json.dumps(RunConfig.model_json_schema(), indent=2, ensure_ascii=False)
    return f"{text}\n"


def markdown() -> str:
    """The config reference: one table a section."""
    parts = [
        "# Config reference\n",
        "One YAML file describes a run; `align run --config F --set KEY=VALUE` changes single keys."
        "\nPaths are relative to the file, those in `--set` to the working directory. An unknown "
        "key is an\nerror. `align run --dry-run` prints every key as resolved.\n",
        "Generated from the models by `python -m align.pipeline.reference`; do not edit.\n",
    ]
    names: dict[type[Section], list[str]] = {}
    for name, section in sections("", RunConfig):
        names.setdefault(section, []).append(name or "Top level")
    parts += [_table(where, section) for section, where in names.items()]
    return "\n".join(parts)


def sections(name: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """Every section with the keys that lead to it; `N` is a position in a list."""
    yield name, section
    for field, info in section.model_fields.items():
        below = section_in(info.annotation)
        if below is not None:
            entry = ".N" if get_origin(info.annotation) is tuple else ""
            yield from sections(f"{name}.{field}{entry}".lstrip("."), below)


def _table(names: list[str], section: type[Section]) -> str:
    lines = [f"## {', '.join(names)}\n", f"{_one_line(section.__doc__)}\n"]
    lines += ["| key | type | default | bounds | meaning |", "| --- | --- | --- | --- | --- |"]
    properties = section.model_json_schema()["properties"]
    for field, info in section.model_fields.items():
        below = section_in(info.annotation)
        meaning = info.description or (below.__doc__ if below else "")
        cells = [f"`{field}`", _type(properties[field]), _default(info), _bounds(properties[field])]
        cells.append(_one_line(meaning))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _type(property_: dict[str, Any]) -> str:
    """A JSON schema's type in words: `integer`, `list of text`, `"a"` or `"b"`."""
    names = {"string": "text", "array": "list", "null": "`null`"}
    if "anyOf" in property_:
        return " or ".join(_type(option) for option in property_["anyOf"])
    if "$ref" in property_ or "allOf" in property_:
        return "section"
    if "const" in property_:
        return f"`{property_['const']}`"
    if "enum" in property_:
        return ", ".join(f"`{value}`" for value in property_["enum"])
    if property_["type"] == "object":
        return "mapping of text to text"
    if property_["type"] == "array":
        return f"list of {_type(property_['items'])}s".replace("texts", "text")
    if property_.get("format") == "path":
        return "path"
    return names.get(property_["type"], str(property_["type"]))


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "required"
    if isinstance(info.default, Section):
        return ""
    value = list(info.default) if isinstance(info.default, tuple) else info.default
    return f"`{dump(value).removesuffix('...' + chr(10)).strip()}`"


def _bounds(property_: dict[str, Any]) -> str:
    options = [property_, *property_.get("anyOf", ())]
    return ", ".join(
        text.format(option[name])
        for option in options
        for name, text in BOUNDS.items()
        if name in option
    )


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _content(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
