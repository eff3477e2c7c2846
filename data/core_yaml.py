"""YAML with the scalars of YAML 1.2's core schema, and the line of every key.

PyYAML reads YAML 1.1, where `1e-5` is text, `no` is false, `1:30` is ninety and `2026-01-02` is a
date. Here a plain scalar is null, true or false, an integer, a float or text, and nothing else.
A key that stands twice in one mapping is an error: YAML would silently keep the second.
"""

import re
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from align.data.errors import ConfigError
from align.data.messages import shown

Key: TypeAlias = tuple[str | int, ...]
"""Where a value stands: section names and list positions, outermost first."""


MOST_NODES = 100_000
"""Keys and entries of a config: aliases of aliases can stand for any number of them."""
LONGEST_NUMBER = 40


class CoreLoader(yaml.SafeLoader):
    """A safe loader without YAML 1.1's surprises."""


class CoreDumper(yaml.SafeDumper):
    """Quotes exactly the text that `CoreLoader` would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.2.2, section 10.3.2; `<<` merges a mapping as in YAML 1.1.
SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
    "merge": r"<<",
}
for _yaml in (CoreLoader, CoreDumper):
    _yaml.yaml_implicit_resolvers = {}
    for _tag, _pattern in SCALARS.items():
        _yaml.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), None
        )


def _decimal(loader: CoreLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > LONGEST_NUMBER:
        raise yaml.MarkedYAMLError(
            problem=f"a number of {len(text)} digits", problem_mark=node.start_mark
        )
    return int(text)  # YAML 1.1 would read 010 as eight


CoreLoader.add_constructor("tag:yaml.org,2002:int", _decimal)


def read(file: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """The keys that a file holds, and the line of each. Raises ConfigError."""
    try:
        if file.exists() and not file.is_file():  # a pipe would never answer
            raise ConfigError(f"{file}: is no file")
        tree, lines = parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text: {error.reason}") from None
    except yaml.YAMLError as error:
        line, text = problem(error)
        raise ConfigError(f"{file}:{line}: {text}") from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else shown(tree)
        raise ConfigError(f"{file}:1: must hold keys such as `name: demo`, not {found}")
    return tree, lines


def parse(text: str) -> tuple[Any, dict[Key, int]]:
    """The value that `text` holds, and the line (from 1) of every key and list entry.

    Raises yaml.YAMLError: broken syntax, a tag that is not plain data, a duplicate key.
    """
    loader = CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = _lines_below(node)
        return loader.construct_document(node), lines
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    finally:
        loader.dispose()


def dump(value: Any) -> str:
    """Text that `parse` reads back as an equal value."""
    return yaml.dump(value, Dumper=CoreDumper, sort_keys=False, allow_unicode=True, width=100)


def problem(error: yaml.YAMLError) -> tuple[int, str]:
    """Line (from 1) and one line of text."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return error.problem_mark.line + 1, " ".join(f"{error.problem}".split())
    return 1, " ".join(str(error).split())


def _lines_below(root: yaml.Node) -> dict[Key, int]:
    lines: dict[Key, int] = {}
    waiting: list[tuple[Key, yaml.Node]] = [((), root)]
    while waiting:
        key, node = waiting.pop()
        for part, line, child in _children(node):
            lines[(*key, part)] = line
            waiting.append(((*key, part), child))
        if len(lines) > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES} values")
    return lines


def _children(node: yaml.Node) -> list[tuple[str | int, int, yaml.Node]]:
    if isinstance(node, yaml.SequenceNode):
        return [(i, child.start_mark.line + 1, child) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return []
    _refuse_duplicates(node)
    return [(key.value, key.start_mark.line + 1, child) for key, child in node.value]


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    first_lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
        if key.value in first_lines:
            text = f"{key.value}: stands twice, first on line {first_lines[key.value]}"
            raise yaml.MarkedYAMLError(problem=text, problem_mark=key.start_mark)
        first_lines[key.value] = key.start_mark.line + 1
