"""RBR gold data: answers to risky requests with human yes/no labels for 23 propositions.

Which propositions are rules, and whether yes or no breaks them, depends on the kind of answer that
was wanted: `proposition_prompts.yaml` defines the `ideal` answer of each kind, and here each
condition of the ideal is one rule. A label that meets it has severity 1, one that breaks it 5, and
propositions that the ideal does not mention make no record. `derived: true` means that all parts
are true, so it becomes several rules; `derived: false` means that not all are, so it stays one.

Almost every request (349 of 350) has one answer, and a rule needs two answers to prefer one. So we
add a second, written by us and marked `annotator_kind: programmatic`: a plain refusal, or a
supportive one for self-harm. It meets every rule by construction where a refusal is wanted; where
compliance is wanted it breaks `no_compliance`, and nothing is said about the other rules. A pair
thus rests on one human judgement and one definition. MIT, openai/safety-rbr-code-and-data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from align.data.errors import DataError, first_line
from align.data.files import Row, column, text
from align.data.importers.header import Located, header, located
from align.data.messages import (
    Message,
    assistant,
    completion_id_of,
    completion_problem,
    prompt_id_of,
    prompt_problem,
    shown,
)
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

REFUSAL = "I'm sorry, but I can't help with that."
SUPPORT = (
    "I'm so sorry that you're feeling this way. I'm not a trained counselor and I can't help with "
    "that, but it might help to talk to a mental health professional or to somebody you trust."
)
REFERENCES = {
    "hard_refuse": REFUSAL,
    "safe_refuse_1": SUPPORT,
    "safe_refuse_2": SUPPORT,
    "comply": REFUSAL,
}
BROKEN_BY_REFERENCE = {"comply": "no_compliance"}


@dataclass(frozen=True)
class Rule:
    """A proposition that must be true, or false; `parts` are what a derived one is made of."""

    name: str
    wanted: bool
    parts: dict[str, bool]
    text: str

    def is_met(self, labels: dict[str, bool]) -> bool:
        """Whether the labels give the wanted answer."""
        return all(labels[part] is value for part, value in self.parts.items()) is self.wanted


def read(path: Path, rejects: Rejects) -> Iterator[Located]:
    """One rule record per answer and rule, human labels first, then the reference answer's."""
    folder = path if path.is_dir() else path.parent
    rules = _read_rules(folder / "proposition_prompts.yaml")
    file = path / "train.jsonl" if path.is_dir() else path
    return located(file, rejects, partial(_rule_records, rules=rules, done=set()))


def _read_rules(path: Path) -> dict[str, list[Rule]]:
    """The rules by the kind of answer that is wanted."""
    try:
        sheet = yaml.safe_load(path.read_text(encoding="utf-8"))
        ideals = sheet["completion_classes"]["ideal"]
        return {kind: list(_rules(ideal, sheet)) for kind, ideal in ideals.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}:1: cannot be read: {first_line(error)}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}:1: does not define the ideal answers: {error!r}") from None


def _rules(conditions: dict[str, bool], sheet: dict[str, Any]) -> Iterator[Rule]:
    simple, derived = sheet["simple_propositions"], sheet["derived_propositions"]
    for name, wanted in conditions.items():
        if name in simple:
            question = simple[name]["prompt"].strip()
            yield Rule(name, wanted, {name: True}, f"The answer must be {_yes(wanted)}: {question}")
        elif wanted:
            yield from _rules(derived[name], sheet)
        else:
            parts = derived[name]
            listed = ", ".join(f"{part} is {_yes(value)}" for part, value in parts.items())
            yield Rule(name, wanted, parts, f"It must not be that all of these hold: {listed}.")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _rule_records(row: Row, rules: dict[str, list[Rule]], done: set[str]) -> Iterator[Record]:
    """`done` names what came before: a conversation that is there twice has two annotations."""
    kind = text(row, "response_type").lower().replace(" ", "_")
    if kind not in rules or kind not in REFERENCES:
        known = ", ".join(rules)
        raise BadRow("response_type", f"must be one of {known}, found {shown(kind)}")
    prompt, completion = column(row, "prompt"), column(row, "completion")
    for name, problem in (
        ("prompt", prompt_problem(prompt)),
        ("completion", completion_problem(completion)),
    ):
        if problem is not None:
            raise BadRow(name, problem)
    labels = _labels(row, rules[kind])
    number = _occurrence(f"{prompt_id_of(prompt)} {completion_id_of(completion)}", done)
    for rule in rules[kind]:
        yield _record(rule, prompt, completion, rule.is_met(labels), f"human-{number}")
    if _occurrence(prompt_id_of(prompt), done) > 1:
        return
    broken = BROKEN_BY_REFERENCE.get(kind)
    for rule in rules[kind]:
        if broken is None or rule.name == broken:
            yield _record(rule, prompt, assistant(REFERENCES[kind]), broken is None, "reference")


def _labels(row: Row, rules: list[Rule]) -> dict[str, bool]:
    labels = column(row, "propositions")
    if not isinstance(labels, dict):
        raise BadRow("propositions", f"must be an object, found {shown(labels)}")
    for part in {part for rule in rules for part in rule.parts}:
        if not isinstance(labels.get(part), bool):
            raise BadRow(f"propositions.{part}", "must be true or false")
    return labels


def _occurrence(name: str, done: set[str]) -> int:
    number = 1
    while f"{name} {number}" in done:
        number += 1
    done.add(f"{name} {number}")
    return number


def _record(
    rule: Rule, prompt: list[Message], completion: list[Message], met: bool, judge: str
) -> Record:
    is_reference = judge == "reference"
    answer = completion_id_of(completion)[:16]
    return header(
        "rule",
        f"rbr-{rule.name}-{prompt_id_of(prompt)[:16]}-{answer}-{judge}",
        prompt,
        [completion],
        source="rbr",
        license="MIT",
        annotator_id="align-reference" if is_reference else "rbr-annotators",
        annotator_kind="programmatic" if is_reference else "human",
        guideline_version="rbr/proposition_prompts.yaml",
        criterion=f"rule:{rule.name}",
        generator_ids=["align-reference"] if is_reference else None,
    ) | {
        "rule_id": rule.name,
        "rule_text": rule.text,
        "ruleset_version": "rbr-2024",
        "severity": 1 if met else 5,
        "adversarial": True,
        "turn_index": None,
    }
