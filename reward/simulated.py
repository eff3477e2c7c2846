"""Simulated annotators: raw feedback of four kinds for the demo, by people with one hidden taste.

Prompts are judged in four forms in turn: a ranking of the answers, Elo battles between them, a
questionnaire about each, or rule judgements. Three annotators of the panel judge each prompt. An
annotator's accuracy is the chance that one judgement is what the taste (`reward/taste.py`) says;
answers that are about equally good are a tie to it. What comes out are raw records in the schemas
of `data/schemas.py`.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar

from align.data.messages import Message, assistant, completion_id_of, prompt_id_of, sha256_of
from align.data.schemas import Record
from align.reward.taste import ending, is_finished, repetition, taste, tone

JUDGES = 3  # annotators who judge the same prompt
TIE = 0.15  # answers whose tastes are closer look equally good
SKIPPED = 0.02  # share of battles that an annotator passes over
STARTED = datetime(2026, 1, 1, tzinfo=UTC)
PACE = timedelta(minutes=1)  # between two judgements of one kind

Option = TypeVar("Option")


@dataclass(frozen=True)
class Annotator:
    """Somebody who judges answers."""

    id: str
    accuracy: float  # share of judgements that follow the taste


PANEL = (
    Annotator("anna", 0.90),
    Annotator("bela", 0.85),
    Annotator("carl", 0.80),
    Annotator("dora", 0.75),
    Annotator("emil", 0.70),
    Annotator("fred", 0.60),
)


@dataclass(frozen=True)
class Question:
    """One question about an answer; the first option is the worst."""

    id: str
    options: tuple[str, ...]
    weight: float
    place: Callable[[str], int | None]  # the true option; None: does not apply
    gate: bool = False


@dataclass(frozen=True)
class Rule:
    """What an answer must not do."""

    id: str
    text: str
    severity: Callable[[str], int]  # 1 clearly follows, 5 clearly breaks


def _level(value: float, *cuts: float) -> int:
    """How many of the cuts the value reaches."""
    return sum(value >= cut for cut in cuts)


QUESTIONS = (
    Question("finished", ("no", "yes"), 0, lambda text: int(is_finished(text)), gate=True),
    Question("tone", ("gloomy", "calm", "cheerful"), 2, lambda text: _level(tone(text), -0.3, 0.3)),
    Question(
        "ending",
        ("sad", "open", "warm"),
        1,
        lambda text: _level(ending(text), -0.3, 0.3) if is_finished(text) else None,
    ),
    Question(
        "repetition",
        ("often", "sometimes", "never"),
        1,
        lambda text: _level(-repetition(text), -0.2, -0.08),
    ),
)
RULES = (
    Rule(
        "no_sad_ending",
        "The story does not end sadly.",
        lambda text: (5, 4, 2, 1)[_level(ending(text), -0.6, -0.2, 0.3)],
    ),
    Rule(
        "no_repetition",
        "The story does not repeat itself.",
        lambda text: (5, 4, 2, 1)[_level(-repetition(text), -0.25, -0.12, -0.04)],
    ),
)


@dataclass(frozen=True)
class _Task:
    """The different answers to one prompt, and one of those who judge them."""

    prompt: list[Message]
    answers: list[str]
    annotator: Annotator
    chance: random.Random


def simulate_feedback(
    prompts: Sequence[list[Message]], answers: Sequence[Sequence[str]], seed: int
) -> dict[str, list[Record]]:
    """Raw records by kind; `answers` holds the texts sampled for each prompt.

    The same arguments give the same records, and more prompts only add some. Answers with the same
    text are judged once, and a prompt that is left with one answer is not judged.
    """
    records: dict[str, list[Record]] = {}
    for number, (prompt, texts) in enumerate(zip(prompts, answers, strict=True)):
        chance = random.Random(f"feedback {seed} {number}")
        different = list(dict.fromkeys(texts))
        judge = FORMS[number % len(FORMS)]
        for annotator in chance.sample(PANEL, JUDGES) if len(different) > 1 else ():
            for record in judge(_Task(prompt, different, annotator, chance)):
                records.setdefault(record["kind"], []).append(record)
    for rows in records.values():
        for place, row in enumerate(rows):
            row["created_at"] = (STARTED + place * PACE).isoformat()
            row["feedback_id"] = sha256_of([seed, row])
            row["cluster_id"] = row["prompt_id"]  # the grammar writes no prompt in two ways
    return records


def _ranking(task: _Task) -> Iterator[Record]:
    """Mallows' model: neighbours in the true order change places with chance 1 - accuracy.

    Repeated insertion draws from it (Doignon, Pekec and Regenwetter 2004).
    """
    tastes = [taste(text) for text in task.answers]
    dispersion = (1 - task.annotator.accuracy) / task.annotator.accuracy
    order: list[int] = []
    for best in sorted(range(len(tastes)), key=lambda answer: -tastes[answer]):
        weights = [dispersion**jumped for jumped in range(len(order), -1, -1)]
        order.insert(task.chance.choices(range(len(order) + 1), weights)[0], best)
    ranks = [1] * len(order)
    for better, worse in pairwise(order):
        tied = abs(tastes[better] - tastes[worse]) < TIE
        ranks[worse] = ranks[better] + (not tied)
    yield _record("ranking", task, task.answers, ranks=ranks)


def _battles(task: _Task) -> Iterator[Record]:
    """A round in which every answer meets two others."""
    order = task.chance.sample(task.answers, len(task.answers))
    for first, second in pairwise([*order, order[0]] if len(order) > 2 else order):
        gap = taste(first) - taste(second)
        outcome, strength = _outcome(gap, task.annotator, task.chance)
        yield _record(
            "comparison",
            task,
            [first, second],
            outcome=outcome,
            strength=strength,
            player_a=None,
            player_b=None,
        )


def _outcome(gap: float, annotator: Annotator, chance: random.Random) -> tuple[str, int | None]:
    """Who wins a battle, and how clearly (0 to 3)."""
    if chance.random() < SKIPPED:
        return "skip", None
    true = "tie" if abs(gap) < TIE else "a" if gap > 0 else "b"
    seen = _seen(("a", "b") if true != "tie" else ("a", "b", "tie"), true, annotator, chance)
    return seen, 0 if seen == "tie" else min(3, 1 + int(abs(gap)))


def _questionnaire(task: _Task) -> Iterator[Record]:
    """The same questions about each answer."""
    yield _record(
        "question",
        task,
        task.answers,
        answers=[
            _reply(question, text, task.annotator, task.chance)
            for text in task.answers
            for question in QUESTIONS
        ],
        questionnaire_version="demo-1",
        overall=None,
    )


def _reply(
    question: Question, text: str, annotator: Annotator, chance: random.Random
) -> dict[str, Any]:
    """A gate asks for a plain fact: nobody gets it wrong."""
    place = question.place(text)
    if place is None:
        option, value = "not applicable", None
    else:
        option = question.options[place]
        if not question.gate:
            option = _seen(question.options, option, annotator, chance)
        value = question.options.index(option) / (len(question.options) - 1)
    return {
        "question_id": question.id,
        "criterion": "overall",
        "option": option,
        "value": value,
        "weight": question.weight,
        "gate": question.gate,
    }


def _rule_judgements(task: _Task) -> Iterator[Record]:
    """All answers by every rule."""
    for rule in RULES:
        for text in task.answers:
            severity = _seen((1, 2, 3, 4, 5), rule.severity(text), task.annotator, task.chance)
            yield _record(
                "rule",
                task,
                [text],
                criterion=f"rule:{rule.id}",
                rule_id=rule.id,
                rule_text=rule.text,
                ruleset_version="demo-1",
                severity=severity,
                adversarial=False,
                turn_index=None,
            )


FORMS: tuple[Callable[[_Task], Iterator[Record]], ...] = (
    _ranking,
    _battles,
    _questionnaire,
    _rule_judgements,
)


def _seen(
    options: Sequence[Option], true: Option, annotator: Annotator, chance: random.Random
) -> Option:
    """The truth with the annotator's accuracy, else any of the other options."""
    if chance.random() < annotator.accuracy:
        return true
    return chance.choice([option for option in options if option != true])


def _record(kind: str, task: _Task, texts: Sequence[str], **fields: Any) -> Record:
    """The fields that all kinds share, and a kind's own."""
    completions = [assistant(text) for text in texts]
    words = sum(len(text.split()) for text in texts)
    return {
        "kind": kind,
        "prompt_id": prompt_id_of(task.prompt),
        "prompt": task.prompt,
        "cluster_id": None,
        "completions": completions,
        "completion_ids": [completion_id_of(completion) for completion in completions],
        "generator_ids": ["sft"] * len(texts),
        "generator_steps": None,
        "display_order": task.chance.sample(range(len(texts)), len(texts)),
        "criterion": "overall",
        "annotator_id": task.annotator.id,
        "annotator_kind": "programmatic",
        "guideline_version": "demo-1",
        "duration_s": round(5 + words * math.exp(task.chance.gauss(-1, 0.3)), 1),
        "source": "simulated",
        "license": "Apache-2.0",
        "gold": False,
        **fields,
    }
