"""Labelled rows in the words of templates: which one, with reasons or without, turned round or not.

Longpre et al. 2023 (arXiv:2301.13688) mixed zero- and few-shot, direct and chain-of-thought
wordings; Wang et al. 2022 and others turned tasks round. All choices depend on seed and row alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from align.data.chance import pick, unit
from align.data.exchanges import Exchange
from align.data.files import Row
from align.data.instruction_config import Templates
from align.data.messages import assistant, folded, sha256_of, shown, user
from align.data.rejects import BadRow
from align.data.tasks.instances import Instance
from align.data.tasks.templates import (
    CHOICES,
    TaskTemplate,
    TemplateSet,
    inverse_of,
    library,
    read_set,
    render,
)

FINAL = re.compile(r".*(?:The answer is|答案是)\s*(.+?)[.。]?\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Wording:
    """The templates of a source and how they are used."""

    templates: TemplateSet
    options: Templates
    seed: int
    task: str
    """Of rows that name none in a column `task_id`."""
    determined: frozenset[str] = frozenset()
    """Hashes of the outputs that determine their input."""

    def exchanges(self, row: Row) -> list[Exchange]:
        """The row turned round, if it is to be, and as it is. Raises: BadRow."""
        record = self.record(row)
        task = str(row.get("task_id") or self.task)
        found = [self._worded(self._kind(record), record, task)]
        turned = inverse_of(self.templates)
        if turned.templates and self._is_turned(record):
            found.insert(0, self._worded(turned.templates, record, f"{task}-inverse"))
        return found

    def record(self, row: Row) -> Row:
        """The fields of the templates. Raises: BadRow if the label is none of the choices."""
        columns, choices = self.options.columns, list(self.options.choices)
        record = {**self.options.values, **row}
        record |= {field: row[name] for field, name in columns.items() if name in row}
        missing = [name for name in columns.values() if name not in row]
        if missing:
            raise BadRow(missing[0], f"there is no such column; found {', '.join(row)}")
        if choices:
            record[CHOICES] = choices
            output = self.templates.output
            record[output] = _class_name(record.get(output), choices, output)
        return record

    def _kind(self, record: Row) -> Sequence[TaskTemplate]:
        reasoned = bool(self.templates.reasoning) and bool(record.get("rationale"))
        if reasoned and unit("reasoning", *self._key(record)) < self.options.reasoning_share:
            return self.templates.reasoning
        return self.templates.templates

    def _is_turned(self, record: Row) -> bool:
        if unit("inverse", *self._key(record)) >= self.options.inverse_share:
            return False
        return self.options.generative or _name(record, self.templates.output) in self.determined

    def _worded(self, among: Sequence[TaskTemplate], record: Row, task: str) -> Exchange:
        template = among[pick(len(among), "template", *self._key(record))]
        given, target = render(template, record)
        known = {"task_id": task, "template_id": template.name, "group": self._group(record)}
        if self.options.choices:
            known["label"] = str(record[self.templates.output])
        return Exchange(user(given), assistant(target), known, Instance("", given, target))

    def _key(self, record: Row) -> tuple[object, ...]:
        return (self.seed, self._group(record))

    def _group(self, record: Row) -> str:
        """All wordings of a row are in one split."""
        return sha256_of([self.templates.task, folded(str(record.get(self.templates.input)))])


def wording(options: Templates, seed: int, rows: Iterable[Row], task: str | None = None) -> Wording:
    """The templates as the config asks for them; the rows are read if some may be turned round.

    Without `task`, the templates say what their task is called.

    Raises: DataError if there is a mistake in the templates.
    """
    if options.file is not None:
        templates = read_set(options.file)
    else:
        assert options.library is not None  # the config demands one of them
        templates = library(options.library, options.language)
    made = Wording(templates, options, seed, task or templates.task)
    if not options.inverse_share or options.generative:
        return made
    return replace(made, determined=determined(made, rows))


def determined(made: Wording, rows: Iterable[Row]) -> frozenset[str]:
    """The outputs that come with one input only, so that the output determines the input."""
    inputs: dict[str, str] = {}
    several = set()
    for row in rows:
        try:
            record = made.record(row)
        except BadRow:
            continue
        output, given = (_name(record, n) for n in (made.templates.output, made.templates.input))
        if inputs.setdefault(output, given) != given:
            several.add(output)
    return frozenset(inputs.keys() - several)


def final_answer(text: str) -> str:
    """The answer in a target, behind its reasons if it gives any."""
    found = FINAL.search(text)
    return found.group(1) if found else text.strip()


def _class_name(label: Any, choices: Sequence[str], field: str) -> str:
    """A class by its name, or by its number from 0, which a table may hold as 0.0."""
    text = str(label)
    if text in choices:
        return text
    text = text.removesuffix(".0")
    if text.isdecimal() and int(text) < len(choices):
        return choices[int(text)]
    raise BadRow(field, f"{shown(label)} is none of the classes {', '.join(choices)}")


def _name(record: Mapping[str, Any], field: str) -> str:
    return sha256_of(folded(str(record.get(field))))[:16]
