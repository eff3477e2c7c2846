"""What annotation tools share: a task, and one annotator's replies to it, become records.

A reply that orders answers is a ranking, a label that picks one of two answers a comparison, of
more answers a best-of, and the grades of one answer are one question record. The config says what
grades are worth (`data.feedback.questions`). Other replies, such as comments, are no feedback.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.data.config import AskedQuestion, TaskFields
from align.data.files import Row
from align.data.importers.header import header
from align.data.importers.texts import answer_of, prompt_of
from align.data.messages import Message, shown
from align.data.rejects import BadRow
from align.data.schemas import Record

ANSWER_FIELDS = ("answer", "completion", "response", "item")  # how the names of fields begin

Grades = list[dict[str, Any]]  # answers in the schema of a question record


@dataclass(frozen=True)
class Task:
    """What annotators saw: the prompt, and the answers by their names, the left one first."""

    prompt: list[Message]
    answers: dict[str, list[Message]]


@dataclass(frozen=True)
class Reply:
    """What was said to one question: a label, a number, or names in groups from best to worst."""

    question: str
    value: Any
    about: str | None = None  # the answer's name, where the export says it


@dataclass(frozen=True)
class Sheet:
    """All replies of one annotator to one task; `origin` goes into the header of each record."""

    id: str
    replies: Sequence[Reply]
    origin: dict[str, Any]
    declined: bool = False  # they saw the task and would not judge


def task_of(data: Row, fields: TaskFields | None) -> Task:
    """The task in an export's `data`. Raises: BadRow."""
    fields = fields or TaskFields()
    names = fields.completions or [name for name in data if name.startswith(ANSWER_FIELDS)]
    answers: dict[str, list[Message]] = {}
    for name in names:
        for label, turns in _answers(data, name):
            if label in answers:
                raise BadRow(name, f"two answers of this task are called {label}")
            answers[label] = turns
    if not answers:
        raise BadRow("fields.completions", f"no field is an answer; found {shown(list(data))}")
    return Task(prompt_of(data, fields.prompt), answers)


def _answers(data: Row, name: str) -> Iterator[tuple[str, list[Message]]]:
    """One answer, or a list of them: texts, or Label Studio's items with `id` and `body`."""
    value = data.get(name)
    if not isinstance(value, list) or (value and isinstance(value[0], dict) and "role" in value[0]):
        yield name, answer_of(data, name)
        return
    for place, item in enumerate(value):
        row = item if isinstance(item, dict) else {"body": item}
        yield str(row.get("id", place)), answer_of(row, "body" if "body" in row else "title")


def records_of(
    task: Task, sheets: Iterable[Sheet], questions: Sequence[AskedQuestion]
) -> list[Record]:
    """What the sheets say. Raises: BadRow if a reply makes no sense, or none is feedback."""
    asked = {question.name: question for question in questions}
    records: list[Record] = []
    unread: set[str] = set()
    for sheet in sheets:
        mine = _skip(task, sheet) if sheet.declined else _said(task, sheet, asked)
        records += mine
        unread |= set() if sheet.declined else {reply.question for reply in sheet.replies}
    if unread and not records:
        found = shown(sorted(unread))
        raise BadRow("questions", f"nothing says what replies to {found} are worth")
    return records


def _skip(task: Task, sheet: Sheet) -> list[Record]:
    """Of two answers a comparison remains, of other tasks nothing."""
    if len(task.answers) != 2:
        return []
    head = _header("comparison", "skip", task, list(task.answers), sheet, "overall")
    return [head | _comparison("skip")]


def _said(task: Task, sheet: Sheet, asked: Mapping[str, AskedQuestion]) -> list[Record]:
    grades: dict[str, Grades] = defaultdict(list)
    records = []
    for reply in sheet.replies:
        question = asked.get(reply.question) or AskedQuestion(name=reply.question)
        if _is_ranking(task, reply, question):
            records.append(_ranking(task, sheet, reply, question))
        elif question.scale or question.choices:
            grades[_about(task, reply, question)].append(_grade(reply, question))
        elif question.picks or reply.value in list(_names(task)):
            records.append(_choice(task, sheet, reply, question))
    return records + [_questionnaire(task, sheet, about, mine) for about, mine in grades.items()]


def _is_ranking(task: Task, reply: Reply, question: AskedQuestion) -> bool:
    """Lists of other things are several labels, or spans of text."""
    groups = reply.value if isinstance(reply.value, list) else []
    names = _names(task, question.picks)
    return any(isinstance(group, list) and names.keys() & set(group) for group in groups)


def _names(task: Task, picks: Sequence[str] = ()) -> dict[str, str]:
    """The answers by the labels that pick them; the label that picks none has the empty name."""
    own = {name: name for name in task.answers}
    if len(task.answers) == 2:
        own["tie"] = ""
    return own | dict(zip(picks, [*task.answers, ""], strict=False))


def _choice(task: Task, sheet: Sheet, reply: Reply, question: AskedQuestion) -> Record:
    names, answers = _names(task, question.picks), list(task.answers)
    if reply.value not in list(names):
        known = shown(list(names))
        raise BadRow(reply.question, f"must be one of {known}, found {shown(reply.value)}")
    place = answers.index(names[reply.value]) if names[reply.value] else None
    kind = "comparison" if len(answers) == 2 else "best_of"
    head = _header(kind, reply.question, task, answers, sheet, question.criterion)
    if kind == "comparison":
        return head | _comparison("tie" if place is None else "ab"[place])
    return head | {"best_index": place, "none_acceptable": place is None}


def _comparison(outcome: str) -> dict[str, Any]:
    return {"outcome": outcome, "strength": None, "player_a": None, "player_b": None}


def _ranking(task: Task, sheet: Sheet, reply: Reply, question: AskedQuestion) -> Record:
    """Answers that nobody ranked are left out."""
    names, ranks = _names(task, question.picks), {}
    for rank, group in enumerate(filter(None, reply.value), start=1):
        for label in group:
            if not names.get(label) or names[label] in ranks:
                raise BadRow(reply.question, f"must rank answers once each, found {shown(label)}")
            ranks[names[label]] = rank
    ranked = [name for name in task.answers if name in ranks]
    head = _header("ranking", reply.question, task, ranked, sheet, question.criterion)
    return head | {"ranks": [ranks[name] for name in ranked]}


def _about(task: Task, reply: Reply, question: AskedQuestion) -> str:
    about = question.about or reply.about
    if about is None and len(task.answers) == 1:
        return next(iter(task.answers))
    if about not in task.answers:
        known = shown(list(task.answers))
        raise BadRow(
            reply.question, f"must be about one of {known}, found {shown(about)}: say it in `about`"
        )
    return about


def _grade(reply: Reply, question: AskedQuestion) -> dict[str, Any]:
    """A rating or a label as a value from 0 to 1."""
    if question.scale:
        worst, best = question.scale
        value = reply.value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not min(worst, best) <= value <= max(worst, best):
            raise BadRow(reply.question, f"must be {worst:g} to {best:g}, found {shown(value)}")
        worth = (value - worst) / (best - worst)
    elif reply.value in question.choices:
        worth = question.choices.index(reply.value) / (len(question.choices) - 1)
    else:
        known = ", ".join(question.choices)
        raise BadRow(reply.question, f"must be one of {known}, found {shown(reply.value)}")
    return {
        "question_id": question.name,
        "criterion": question.criterion,
        "option": str(reply.value),
        "value": worth,
        "weight": 1.0,
        "gate": False,
    }


def _questionnaire(task: Task, sheet: Sheet, about: str, answers: Grades) -> Record:
    """By the criterion that its questions share, else overall."""
    criteria = {answer["criterion"] for answer in answers}
    criterion = criteria.pop() if len(criteria) == 1 else "overall"
    return _header("question", about, task, [about], sheet, criterion) | {
        "answers": answers,
        "questionnaire_version": sheet.origin["guideline_version"],
        "overall": None,
    }


def _header(
    kind: str, name: str, task: Task, answers: Sequence[str], sheet: Sheet, criterion: str
) -> Record:
    is_human = sheet.origin.get("annotator_kind", "human") == "human"
    return header(
        kind,
        f"{sheet.id}-{name}",
        task.prompt,
        [task.answers[answer] for answer in answers],
        criterion=criterion,
        display_order=list(range(len(answers))) if is_human else None,
        **sheet.origin,
    )
