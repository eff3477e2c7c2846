"""What must hold within a raw record of each kind, beyond the types and choices of its schema.

A problem is (field, reason). The records are complete and of the right types. `data/screen.py` says
the same of whole Arrow tables.
"""

from collections.abc import Callable, Sequence
from typing import Any

from align.data.criteria import CRITERIA, is_criterion
from align.data.messages import is_blank, shown
from align.data.presence import OWN_NAMES
from align.data.questionnaires import questionnaire_problems
from align.data.schemas import LARGEST_LOGPROB, LARGEST_REWARD, LARGEST_WEIGHT, Record
from align.data.shapes import Problems


def kind_problems(record: Record) -> Problems:
    """What is wrong with the fields that only records of its kind have."""
    yield from blank_names(record, OWN_NAMES[record["kind"]])
    yield from CHECKS[record["kind"]](record)


def blank_names(record: Record, names: Sequence[str]) -> Problems:
    """Names, and lists of names, that name nothing; null is none."""
    for name in names:
        value = record[name]
        if isinstance(value, str) and is_blank(value):
            yield name, f"must not be empty, found {shown(value)}"
        for place, one in enumerate(value if isinstance(value, list) else ()):
            if is_blank(one):
                yield f"{name}[{place}]", f"must not be empty, found {shown(one)}"


def criterion_problems(name: str, value: str) -> Problems:
    """That the criterion in a field is unknown."""
    if not is_criterion(value):
        known = ", ".join(CRITERIA)
        yield name, f"must be one of {known} or rule:<id>, found {shown(value)}"


def _best_of_problems(record: Record) -> Problems:
    best, count = record["best_index"], len(record["completions"])
    if (best is None) != record["none_acceptable"]:
        yield "best_index", "must be null exactly when none_acceptable is true"
    if best is not None and not 0 <= best < count:
        yield "best_index", f"must be 0 to {count - 1}, found {best}"


def _ranking_problems(record: Record) -> Problems:
    ranks = record["ranks"]
    if len(ranks) != len(record["completions"]):
        yield "ranks", f"{len(ranks)} entries for {len(record['completions'])} completions"
    if sorted(set(ranks)) != list(range(1, len(set(ranks)) + 1)):
        yield "ranks", f"must be dense and start at 1 (1, 2, 2, 3), found {shown(ranks)}"


def _comparison_problems(record: Record) -> Problems:
    if len(record["completions"]) != 2:
        yield "completions", f"comparison needs 2, found {len(record['completions'])}"
    yield from _between(record, "strength", 0, 3)
    first, second = record["player_a"], record["player_b"]
    if (first is None) != (second is None):
        missing, other = ("player_a", "player_b") if first is None else ("player_b", "player_a")
        yield missing, f"must be given where {other} is"
    elif first is not None and first == second:
        yield "player_b", f"must differ from player_a: {shown(first)} cannot play itself"


def _question_problems(record: Record) -> Problems:
    count, answers = len(record["completions"]), record["answers"]
    overall = record["overall"]
    if overall is not None and count != 2:
        yield "overall", f"compares 2 completions, found {count}"
    yield from _between(record, "overall", -2, 2)
    if not answers and overall is None:
        yield "answers", "must not be empty where there is no overall judgement"
    size, rest = divmod(len(answers), max(count, 1))
    asked = [answer["question_id"] for answer in answers]
    if rest or any(asked[i] != asked[i % size] for i in range(len(asked))):
        yield "answers", f"must be the same questions for each of {count} completions"
    elif len(set(asked)) != size:
        yield "answers", "asks a question twice about one completion"
    for start in range(0, len(answers), max(size, 1)):
        block = answers[start : start + size]
        for name, reason in questionnaire_problems(record["questionnaire_version"], block):
            yield f"answers.{name}", reason
    for place, answer in enumerate(answers):
        for name, reason in _answer_problems(answer):
            yield f"answers[{place}].{name}", reason
    yield from _questions_that_change(answers)


def _answer_problems(answer: dict[str, Any]) -> Problems:
    value, weight = answer["value"], answer["weight"]
    yield from blank_names(answer, ["question_id"])
    yield from criterion_problems("criterion", answer["criterion"])
    if value is not None and not 0 <= value <= 1:
        yield "value", f"must be 0 to 1, found {value}"
    if value is None and answer["gate"]:
        yield "value", "a gate must be answered"
    if not 0 <= weight <= LARGEST_WEIGHT:
        yield "weight", f"must be 0 to {LARGEST_WEIGHT}, found {weight}"


def _questions_that_change(answers: list[dict[str, Any]]) -> Problems:
    """A question must mean the same about every completion, or it says nothing between them."""
    asked: dict[str, dict[str, Any]] = {}
    worth: dict[tuple[str, str], float | None] = {}
    for place, answer in enumerate(answers):
        question, option = answer["question_id"], answer["option"]
        first = asked.setdefault(question, answer)
        for name in ("criterion", "weight", "gate"):
            if answer[name] != first[name]:
                found = f"found {shown(answer[name])}"
                reason = f"must be {shown(first[name])} as for another completion, {found}"
                yield f"answers[{place}].{name}", reason
        value = worth.setdefault((question, option), answer["value"])
        if answer["value"] != value:
            yield (
                f"answers[{place}].value",
                f"option {shown(option)} is worth {shown(value)} for another completion, "
                f"found {shown(answer['value'])}",
            )


def _rule_problems(record: Record) -> Problems:
    if len(record["completions"]) != 1:
        yield "completions", f"one severity judges 1, found {len(record['completions'])}"
    yield from _between(record, "severity", 1, 5)
    yield from _between(record, "turn_index", 0, len(record["prompt"]))
    if record["criterion"] != f"rule:{record['rule_id']}":
        yield "criterion", f"must be rule:{record['rule_id']}, found {record['criterion']}"


def _rbrm_problems(record: Record) -> Problems:
    options, logprobs = record["option_ids"], record["option_logprobs"]
    if record["annotator_kind"] != "model":
        yield "annotator_kind", f"a judge is a model, found {record['annotator_kind']}"
    if len(record["completions"]) != 1:
        yield "completions", f"a rubric judges 1, found {len(record['completions'])}"
    if len(set(options)) != len(options):
        yield "option_ids", f"must differ, found {shown(options)}"
    if len(options) != len(logprobs):
        yield "option_logprobs", f"{len(logprobs)} entries for {len(options)} options"
    for place, logprob in enumerate(logprobs):
        if logprob > LARGEST_LOGPROB:
            yield f"option_logprobs[{place}]", f"must be at most 0, found {logprob}"
    yield from _between(record, "reward", -LARGEST_REWARD, LARGEST_REWARD)
    yield from _between(record, "n_permutations", 1, 2**15 - 1)
    if record["chosen_option"] not in options:
        yield "chosen_option", f"{shown(record['chosen_option'])} is none of option_ids"


def _between(record: Record, name: str, low: int, high: int) -> Problems:
    value = record[name]
    if value is not None and not low <= value <= high:
        yield name, f"must be {low} to {high}, found {value}"


CHECKS: dict[str, Callable[[Record], Problems]] = {
    "best_of": _best_of_problems,
    "ranking": _ranking_problems,
    "comparison": _comparison_problems,
    "question": _question_problems,
    "rule": _rule_problems,
    "rbrm": _rbrm_problems,
}
