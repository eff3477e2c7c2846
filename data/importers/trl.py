"""TRL's dataset formats for feedback: preference and unpaired preference rows.

A preference row has `chosen` and `rejected`, as texts or as lists of messages, and either a
`prompt` or none: then it is what both begin with. An unpaired row has `prompt`, `completion` and a
`label`, true or false: a questionnaire of one question. A `margin` or scores beside an answer are
left out: they do not say on what scale. Documented in TRL's "Dataset formats and
types".
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from align.data.config import FeedbackSource
from align.data.files import Row, column, text
from align.data.importers.chosen import chosen_over_rejected
from align.data.importers.header import Located, header, located
from align.data.importers.texts import answer_of, conversation_of, prompt_of, shared_prompt
from align.data.messages import Message, assistant, sha256_of, shown, user
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

MORE_THAN_TEXT = ("images", "image", "tools")  # which are shown to a model beside the messages
WORDS = re.compile(r".*\s", re.DOTALL)  # greedy: up to the last space


def read(path: Path, rejects: Rejects, source: FeedbackSource) -> Iterator[Located]:
    """One comparison per preference row, one question per unpaired row."""
    return located(path, rejects, partial(_records, source=source))


def _records(row: Row, source: FeedbackSource) -> Iterator[Record]:
    for name in MORE_THAN_TEXT:
        if row.get(name):
            raise BadRow(name, f"a prompt is text alone here, found {shown(row[name])}")
    if "label" in row:
        yield _question(row, source)
    elif _holds_prompt(column(row, "chosen")):
        chosen, rejected = conversation_of(row, "chosen"), conversation_of(row, "rejected")
        prompt, better, worse = shared_prompt(chosen, rejected, "rejected")
        yield chosen_over_rejected(_with_prompt(row, prompt), better, worse, source)
    elif "prompt" in row or not isinstance(row["chosen"], str):
        prompt = prompt_of(row, "prompt")
        chosen, rejected = answer_of(row, "chosen"), answer_of(row, "rejected")
        yield chosen_over_rejected(prompt, chosen, rejected, source)
    else:
        yield chosen_over_rejected(*_split_texts(row), source)


def _holds_prompt(chosen: Any) -> bool:
    """Whether messages begin with the prompt; some sets repeat it in a column `prompt`."""
    first = chosen[0] if isinstance(chosen, list) and chosen else None
    return isinstance(first, dict) and first.get("role") in ("system", "user")


def _with_prompt(row: Row, shared: list[Message]) -> list[Message]:
    """What both conversations begin with, and the system turn that only a column `prompt` has."""
    if row.get("prompt") is None:
        return shared
    prompt = prompt_of(row, "prompt")
    is_a_turn = isinstance(row["prompt"], str) and prompt[0] in shared
    if is_a_turn or prompt == shared:
        return shared
    if prompt[1:] == shared and prompt[0]["role"] == "system":
        return prompt
    raise BadRow("prompt", "is not what chosen and rejected begin with")


def _split_texts(row: Row) -> tuple[list[Message], list[Message], list[Message]]:
    """What both begin with is the prompt, up to its last space, so that no word is cut.

    Scripts without spaces are cut where the texts part, as TRL does.
    """
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    letters = enumerate(zip(chosen, rejected, strict=False))
    parting = next((place for place, (ours, theirs) in letters if ours != theirs), None)
    shared = chosen[:parting] if len(chosen) <= len(rejected) else rejected[:parting]
    words = WORDS.match(shared)
    prompt = words[0] if words else shared
    if not prompt.strip():
        raise BadRow("chosen", "has no prompt: it and rejected begin with different words")
    answers = [assistant(whole[len(prompt) :]) for whole in (chosen, rejected)]
    return user(prompt.rstrip()), answers[0], answers[1]


def _question(row: Row, source: FeedbackSource) -> Record:
    label = column(row, "label")
    if not isinstance(label, bool):
        raise BadRow("label", f"must be true or false, found {shown(label)}")
    prompt, completion = prompt_of(row, "prompt"), answer_of(row, "completion")
    criterion = source.criterion or "overall"
    answer = {
        "question_id": "label",
        "criterion": criterion,
        "option": "true" if label else "false",
        "value": float(label),
        "weight": 1.0,
        "gate": False,
    }
    return header(
        "question",
        f"trl-{sha256_of([prompt, completion, label])[:32]}",
        prompt,
        [completion],
        source="trl",
        license=source.license,
        annotator_id="trl-annotators",
        guideline_version=source.guideline_version,
        criterion=criterion,
    ) | {"answers": [answer], "questionnaire_version": "trl", "overall": None}
