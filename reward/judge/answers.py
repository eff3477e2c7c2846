"""Which answers a judge is asked about: those of records, or of rows with a prompt and answers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from align.data.files import Row, column, read_rows
from align.data.importers.texts import prompt_of
from align.data.messages import (
    Message,
    assistant,
    completion_id_of,
    completion_problem,
    prompt_id_of,
)
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

BARE = "answers"  # the source of rows without one


@dataclass(frozen=True)
class Answers:
    """Answers to one prompt that stand beside each other in a file."""

    prompt: list[Message]
    completions: list[list[Message]]
    source: str
    license: str


def answers_in(record: Record) -> Answers:
    """Those that a raw record judges."""
    license = record["license"] or "unknown"
    return Answers(record["prompt"], record["completions"], record["source"], license)


def read_answers(path: Path, rejects: Rejects) -> Iterator[Answers]:
    """Rows like `{"prompt": ..., "answers": [...]}`, of texts or messages; bad ones are set
    aside."""
    for line, row in read_rows(path, rejects):
        try:
            yield Answers(prompt_of(row, "prompt"), _answers_of(row), BARE, "unknown")
        except BadRow as bad:
            rejects.add(path, line, bad.field, bad.reason)


def _answers_of(row: Row) -> list[list[Message]]:
    values = column(row, "answers")
    if not isinstance(values, list) or not values:
        raise BadRow("answers", "must be a list of one or more answers")
    found = []
    for place, value in enumerate(values):
        answer = assistant(value) if isinstance(value, str) else value
        if problem := completion_problem(answer):
            raise BadRow(f"answers[{place}]", problem)
        found.append(list(answer))
    return found


def single(found: Iterable[Answers]) -> list[Answers]:
    """Every different answer to a prompt once, by itself."""
    seen: dict[tuple[str, str], Answers] = {}
    for one in found:
        prompt_id = prompt_id_of(one.prompt)
        for turns in one.completions:
            key = prompt_id, completion_id_of(turns)
            seen.setdefault(key, Answers(one.prompt, [turns], one.source, one.license))
    return list(seen.values())


def in_pairs(found: Iterable[Answers]) -> list[Answers]:
    """Every two different answers once, of those that stand beside each other.

    Answers that stand alone are put beside the others to their prompt that do.
    """
    alone: dict[str, Answers] = {}
    together = []
    for one in found:
        if len(one.completions) > 1:
            together.append(one)
            continue
        group = alone.setdefault(
            prompt_id_of(one.prompt), Answers(one.prompt, [], one.source, one.license)
        )
        group.completions.extend(one.completions)
    seen: dict[tuple[str, frozenset[str]], Answers] = {}
    for one in [*together, *alone.values()]:
        prompt_id = prompt_id_of(one.prompt)
        for both in combinations(one.completions, 2):
            ids = frozenset(map(completion_id_of, both))
            if len(ids) == 2:
                pair = Answers(one.prompt, list(both), one.source, one.license)
                seen.setdefault((prompt_id, ids), pair)
    return list(seen.values())
