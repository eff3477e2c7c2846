"""TruthfulQA judge data: is an answer true, and is it informative?

`truth.jsonl` asks "True:", `info.jsonl` asks "Helpful:"; each row is one answer with a yes or no.
That is a questionnaire of one question about one answer: criterion honest in the first file,
helpful in the second. Answers to one question are compared later, by their scores. Some answers
were judged several times, not always alike. Apache-2.0, github.com/sylinrl/TruthfulQA.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from align.data.files import Row, text
from align.data.importers.header import Located, header, located
from align.data.messages import assistant, sha256_of, shown, user
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

LAYOUT = re.compile(r"Q: (.*?)\nA: (.*)\n(True|Helpful):", re.DOTALL)
QUESTIONS = {"True": ("truthful", "honest"), "Helpful": ("informative", "helpful")}
VALUES = {"yes": 1.0, "no": 0.0}
FILES = ("truth.jsonl", "info.jsonl")


def read(path: Path, rejects: Rejects) -> Iterator[Located]:
    """One question record per row, from both files of a folder or from one file."""
    for file in [path / name for name in FILES] if path.is_dir() else [path]:
        yield from located(file, rejects, _converter())


def _converter() -> Callable[[Row], list[Record]]:
    """Counts how often an answer came by: that is the stable part of a repeated row's id."""
    repeats: Counter[str] = Counter()

    def convert(row: Row) -> list[Record]:
        match = LAYOUT.fullmatch(text(row, "prompt"))
        if match is None:
            shape = r"Q: ...\nA: ...\nTrue: (or Helpful:)"
            raise BadRow("prompt", f"must look like {shape}, found {shown(row['prompt'])}")
        option = text(row, "completion").strip()
        if option not in VALUES:
            raise BadRow("completion", f"must be yes or no, found {shown(row['completion'])}")
        name = sha256_of([match[1], match[2], match[3]])[:16]
        repeats[name] += 1
        return [_question(f"{name}-{repeats[name]}", match, option)]

    return convert


def _question(name: str, match: re.Match[str], option: str) -> Record:
    question_id, criterion = QUESTIONS[match[3]]
    answer = {
        "question_id": question_id,
        "criterion": criterion,
        "option": option,
        "value": VALUES[option],
        "weight": 1.0,
        "gate": False,
    }
    return header(
        "question",
        f"truthfulqa-{question_id}-{name}",
        user(match[1]),
        [assistant(match[2])],
        source="truthfulqa-judge",
        license="Apache-2.0",
        annotator_id="truthfulqa-judges",
        guideline_version="truthfulqa-judge",
        criterion=criterion,
    ) | {"answers": [answer], "questionnaire_version": "truthfulqa-judge", "overall": None}
