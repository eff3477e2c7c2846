"""From a YAML file and `--set` overrides to a checked `RunConfig`, and back to YAML.

No torch here: `align --help` and `align run --dry-run` answer in under half a second.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from align.data import core_yaml
from align.data.config import Section
from align.data.config_problems import alternatives, dotted, explain, section_in, shown
from align.data.core_yaml import Key
from align.data.errors import ConfigError
from align.pipeline.config import RunConfig
from align.policy.config import ModelConfig

SHIPPED = Path(__file__).parent.parent / "configs"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file, or a shipped config by name, and apply `KEY=VALUE` overrides in order.

    Paths in the file are relative to the file's folder, those in overrides to the working
    directory; all are absolute in the result. Raises ConfigError.
    """
    file = find_config(path)
    tree, lines = core_yaml.read(file)
    tree = _absolute(tree, RunConfig, file.parent)
    places = {(): str(file)} | {key: f"{file}:{line}" for key, line in lines.items()}
    return _checked(tree, places, overrides)


def default_config(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """What holds without a file, with overrides as in `load_config`. Raises ConfigError."""
    return _checked({"name": name}, {(): "the defaults"}, overrides)


def _checked(tree: dict[str, Any], places: dict[Key, str], overrides: Sequence[str]) -> RunConfig:
    for override in overrides:
        key, value = _parse_override(override)
        _apply(tree, key, value, override)
        said_here = {key[:length]: f"--set {override}" for length in range(1, len(key) + 1)}
        places = {old: place for old, place in places.items() if old[: len(key)] != key}
        places = said_here | places  # a section that the file has keeps its line
    try:
        # JSON in strict mode: text is no number and true is not 1, but a list may be a tuple.
        return RunConfig.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, tree, places, RunConfig))) from None


def dump_config(config: RunConfig) -> str:
    """YAML with every key, which `load_config` reads back as an equal config."""
    return core_yaml.dump(config.model_dump(mode="json"))


def find_config(path: Path | str) -> Path:
    """`path` itself, or the config of that name that ships with align. Raises ConfigError."""
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}
    try:
        if Path(path).exists():
            return Path(path)
    except OSError as error:  # a name that no file can have
        raise ConfigError(f"{shown(str(path))}: {error.strerror}") from None
    if str(path) in shipped:
        return shipped[str(path)]
    raise ConfigError(f"{path}: no such config file; those that ship are {', '.join(shipped)}")


def _parse_override(override: str) -> tuple[Key, Any]:
    """`data.feedback.0.path=x.jsonl` -> its key, and the value as YAML reads it."""
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write KEY=VALUE, such as train.ranks=2")
    try:
        nested, _ = core_yaml.parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {core_yaml.problem(error)[1]}") from None
    for part in reversed(parts):
        nested = {part: nested}
    value: Any = _absolute(nested, RunConfig, Path.cwd())
    for part in parts:
        value = value[part]
    return tuple(int(part) if part.isdecimal() else part for part in parts), value


def _apply(tree: dict[str, Any], key: Key, value: Any, override: str) -> None:
    """Set `value` in `tree`; a section on the way that is not there yet is made."""
    here: Any = tree
    for depth, part in enumerate(key[:-1]):
        _check_has(here, key[: depth + 1], override)
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        here = here[part]
    _check_has(here, key, override)
    here[key[-1]] = value


def _check_has(here: Any, key: Key, override: str) -> None:
    part, name = key[-1], dotted(key[:-1])
    if isinstance(here, list) and (not isinstance(part, int) or part >= len(here)):
        raise ConfigError(f"--set {override}: {name} is a list of {len(here)}, counted from 0")
    if not isinstance(here, list | dict):
        raise ConfigError(f"--set {override}: {name} is {shown(here)}, with no keys below it")


def _absolute(value: Any, annotation: Any, base: Path) -> Any:
    """`value` with every path in it made absolute; `annotation` tells which texts are paths."""
    if isinstance(value, str) and Path in alternatives(annotation):
        return _joined(base, value)
    if isinstance(value, list):
        return [_absolute(entry, annotation, base) for entry in value]
    section = section_in(annotation)
    if section is None or not isinstance(value, dict):
        return value
    if all(str(name).isdecimal() for name in value):  # an override of one entry of a list
        return {name: _absolute(entry, section, base) for name, entry in value.items()}
    return {name: _absolute_entry(name, entry, section, base) for name, entry in value.items()}


def _absolute_entry(name: str, value: Any, section: type[Section], base: Path) -> Any:
    if section is ModelConfig and name == "path" and isinstance(value, str):
        return _joined(base, value) if _is_folder(base, value) else value
    field = section.model_fields.get(name)
    return value if field is None else _absolute(value, field.annotation, base)


def _is_folder(base: Path, value: str) -> bool:
    """Whether `model.path` means a folder, which may be missing, and not a hub id."""
    if value == "embedded" or value.startswith("package:"):
        return False
    if not HUB_ID.fullmatch(value) or Path(_joined(base, value)).exists():
        return True
    return "/" in value and Path(_joined(base, value)).parent.exists()


def _joined(base: Path, value: str) -> str:
    return os.path.abspath(base / os.path.expanduser(value))
