"""Natural-instructions tasks: one JSON file a task, with its instructions and its instances.

Mishra et al. 2022 (arXiv:2104.08773) wrote a task as title, definition, cautions and examples with
reasons and suggestions; Wang et al. 2022 (arXiv:2204.07705) kept definition and examples under
other names. Both are read here. Each field can be shown or not: the papers found that some help
and some hurt.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.data.errors import DataError
from align.data.files import Row, readable
from align.data.instruction_config import NaturalFields
from align.data.messages import shown
from align.data.rejects import BadRow


@dataclass(frozen=True)
class Example:
    """An example of a task, good or bad."""

    input: str
    output: str
    reason: str
    suggestion: str


@dataclass(frozen=True)
class NaturalTask:
    """A task as its authors described it; what they left out is empty."""

    task_id: str
    title: str
    definition: str
    caution: str
    things_to_avoid: str
    prompt: str
    positive: tuple[Example, ...]
    negative: tuple[Example, ...]
    license: str
    instances: tuple[Row, ...]


def task_files(path: Path) -> list[Path]:
    """The file itself, or the JSON files of a folder by name. Raises: DataError if none."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise DataError(f"{path}:1: no task in this folder: give one with *.json files")
    return files


def read_task(path: Path) -> NaturalTask:
    """Raises: DataError if the file holds no task."""
    with readable(path):
        try:
            task = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:1: broken JSON: {error}") from None
    if not isinstance(task, dict) or not isinstance(task.get("Instances"), list):
        raise DataError(f"{path}:1: no natural-instructions task: it needs a list `Instances`")
    examples = task.get("Examples")
    examples = examples if isinstance(examples, dict) else task
    return NaturalTask(
        path.stem,
        _text(task, "Title"),
        _text(task, "Definition"),
        _text(task, "Emphasis & Caution"),
        _text(task, "Things to Avoid"),
        _text(task, "Prompt"),
        _examples(examples.get("Positive Examples")),
        _examples(examples.get("Negative Examples")),
        _text(task, "Instance License"),
        tuple(task["Instances"]),
    )


def described(task: NaturalTask, fields: NaturalFields) -> str:
    """The task's instructions with the fields asked for, each a paragraph of its own."""
    parts = [
        (fields.title, "Title", task.title),
        (fields.definition, "Definition", task.definition),
        (fields.caution, "Emphasis and caution", task.caution),
        (fields.things_to_avoid, "Things to avoid", task.things_to_avoid),
        (fields.prompt, "Prompt", task.prompt),
    ]
    paragraphs = [f"{name}: {text}" for wanted, name, text in parts if wanted and text]
    for kind, examples, count in (
        ("Positive", task.positive, fields.positive_examples),
        ("Negative", task.negative, fields.negative_examples),
    ):
        for number, example in enumerate(examples[:count], start=1):
            paragraphs.append(_paragraph(f"{kind} example {number}", example, fields))
    return "\n\n".join(paragraphs)


def answers_of(row: Any) -> tuple[str, list[str]]:
    """Input and accepted outputs of an instance. Raises: BadRow."""
    if not isinstance(row, dict) or not isinstance(row.get("input"), str):
        raise BadRow("Instances", f"must have input and output, found {shown(row)}")
    output = row.get("output")
    outputs = [output] if isinstance(output, str) else output
    if not isinstance(outputs, list) or not all(isinstance(one, str) for one in outputs):
        raise BadRow("output", f"must be a text or a list of texts, found {shown(output)}")
    return row["input"], outputs


def _paragraph(heading: str, example: Example, fields: NaturalFields) -> str:
    lines = [f"{heading}:", f"Input: {example.input}", f"Output: {example.output}"]
    if fields.reasons and example.reason:
        lines.append(f"Reason: {example.reason}")
    if fields.suggestions and example.suggestion:
        lines.append(f"Suggestion: {example.suggestion}")
    return "\n".join(lines)


def _text(task: Row, name: str) -> str:
    """A text, or a list of them; what the authors left out as "-" is empty."""
    value = task.get(name, "")
    texts: Sequence[Any] = value if isinstance(value, list) else [value]
    found = " ".join(one.strip() for one in texts if isinstance(one, str))
    return "" if found == "-" else found


def _examples(rows: Any) -> tuple[Example, ...]:
    return tuple(_each_example(rows if isinstance(rows, list) else []))


def _each_example(rows: Sequence[Any]) -> Iterator[Example]:
    """The older files put a text where there are no examples."""
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("input"), str):
            reason = _text(row, "reason") or _text(row, "explanation")
            yield Example(row["input"], _text(row, "output"), reason, _text(row, "suggestion"))
