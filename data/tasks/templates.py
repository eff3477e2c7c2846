"""Templates in the manner of PromptSource: Jinja, `INPUT ||| TARGET`, several for a task.

Bach et al. 2022 (arXiv:2202.01279). A file of ours has the templates of a task, and says which
field is asked for; a PromptSource file is read as it is. Templates run in a sandbox, and a field
that is missing is an error, never an empty text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from align.data.core_yaml import CoreLoader, problem
from align.data.errors import DataError
from align.data.messages import shown
from align.data.rejects import BadRow

BAR = "|||"
BORDER = "\ue000|||\ue000"
"""What stands for the bar while a template is filled in, so that a text may hold `|||`. The letters
around it are of Unicode's private use area."""
CHOICES = "answer_choices"


class Loader(CoreLoader):
    """Takes PromptSource's `!Template` tags as plain mappings."""


def _mapping(loader: Loader, _: str, node: yaml.Node) -> Any:
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


Loader.add_multi_constructor("!", _mapping)
ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


@dataclass(frozen=True)
class TaskTemplate:
    """One wording of a task."""

    name: str
    compiled: Template = field(repr=False, compare=False)
    choices: Template | None = field(default=None, repr=False, compare=False)
    """Of PromptSource: the answers by the label's number, between bars."""


@dataclass(frozen=True)
class TemplateSet:
    """The wordings of a task: with the answer alone, with reasons before it, and turned round."""

    task: str
    input: str
    """The field that is given, and that the inverse templates ask for."""
    output: str
    """The field that is asked for."""
    templates: tuple[TaskTemplate, ...]
    reasoning: tuple[TaskTemplate, ...] = ()
    inverse: tuple[TaskTemplate, ...] = ()


def library(name: str, language: str) -> TemplateSet:
    """A set that ships with align."""
    place = f"library/{name}.{language}.yaml"
    text = resources.files("align.data.tasks").joinpath(place).read_text("utf-8")
    return parse_set(text, place)


def read_set(path: Path) -> TemplateSet:
    """A set in a file. Raises: DataError."""
    try:
        return parse_set(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise DataError(f"{path}:1: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:1: not UTF-8: {error.reason}") from None


def parse_set(text: str, place: str) -> TemplateSet:
    """Raises: DataError with the place if the text is no set of templates."""
    try:
        tree = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        line, reason = problem(error)
        raise DataError(f"{place}:{line}: {reason}") from None
    if not isinstance(tree, dict) or not tree.get("templates"):
        raise DataError(f"{place}:1: no set of templates: it needs `templates`")
    groups = {
        name: _group(tree.get(name) or [], place) for name in ("templates", "reasoning", "inverse")
    }
    names = [one.name for group in groups.values() for one in group]
    if len(set(names)) != len(names):
        raise DataError(f"{place}:1: two templates have one name")
    task = str(tree.get("task") or tree.get("dataset") or Path(place).stem)
    given, asked = str(tree.get("input") or ""), str(tree.get("output") or "")
    if groups["inverse"] and not (given and asked):
        raise DataError(f"{place}:1: inverse templates need `input` and `output`")
    return TemplateSet(task, given, asked, **groups)


def inverse_of(templates: TemplateSet) -> TemplateSet:
    """The task turned round: what was asked for is given. Twice gives the set itself."""
    return replace(
        templates,
        input=templates.output,
        output=templates.input,
        templates=templates.inverse,
        inverse=templates.templates,
    )


def render(template: TaskTemplate, record: Mapping[str, Any]) -> tuple[str, str]:
    """Input and target of a record. Raises: BadRow that names template and field."""
    values = dict(record)
    if template.choices is not None:
        choices = [one.strip() for one in _filled(template, template.choices, record).split(BAR)]
        if len(set(choices)) != len(choices):
            raise BadRow(CHOICES, f"template {template.name}: names an answer twice: {choices}")
        values[CHOICES] = choices
    parts = _filled(template, template.compiled, values).split(BORDER)
    if len(parts) != 2:
        raise BadRow("", f"template {template.name}: gives no input and target for this row")
    return parts[0].strip(), parts[1].strip()


def _filled(template: TaskTemplate, compiled: Template, record: Mapping[str, Any]) -> str:
    try:
        return compiled.render(record)
    except UndefinedError as error:
        found = ", ".join(record) or "none"
        name = str(error).split("'")[1] if "'" in str(error) else ""
        raise BadRow(name, f"template {template.name}: {error}; found {found}") from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise BadRow("", f"template {template.name}: {error}") from None


def _group(entries: Any, place: str) -> tuple[TaskTemplate, ...]:
    """A list of ours, or PromptSource's mapping by an id that says nothing."""
    rows = list(entries.values()) if isinstance(entries, dict) else entries
    if not isinstance(rows, list):
        raise DataError(f"{place}:1: templates are a list, found {shown(entries)}")
    return tuple(_template(row, place) for row in rows)


def _template(row: Any, place: str) -> TaskTemplate:
    text = row.get("text", row.get("jinja")) if isinstance(row, dict) else None
    if not isinstance(text, str) or not isinstance(row.get("name"), str):
        raise DataError(f"{place}:1: a template needs name and text, found {shown(row)}")
    name = row["name"]
    if text.count(BAR) != 1:
        raise DataError(f"{place}:1: template {name}: needs one `{BAR}` between input and target")
    choices = row.get(CHOICES)
    try:
        return TaskTemplate(
            name,
            ENVIRONMENT.from_string(text.replace(BAR, BORDER)),
            ENVIRONMENT.from_string(choices) if choices else None,
        )
    except TemplateSyntaxError as error:
        reason = str(error.message).replace(repr(BORDER[0]), BAR)
        raise DataError(
            f"{place}:1: template {name}: {reason}, on its line {error.lineno}"
        ) from None
