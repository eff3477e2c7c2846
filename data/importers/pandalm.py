"""PandaLM test set: pairs of answers by five models, each judged by three people.

`testset-v1.json` is a list of objects; the annotators say 0 (tie), 1 or 2. Which answer a person
saw first is not recorded. Six answers are the JSON value `true` instead of text: those rows are
rejected, since nobody can say what text they were. Apache-2.0, github.com/WeOpenML/PandaLM.
"""

from collections.abc import Iterator
from pathlib import Path

from align.data.files import Row, column, text
from align.data.importers.header import Located, header, located
from align.data.messages import assistant, shown, user
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

ANNOTATORS = ("annotator1", "annotator2", "annotator3")
OUTCOMES = {0: "tie", 1: "a", 2: "b"}


def read(path: Path, rejects: Rejects) -> Iterator[Located]:
    """Three comparisons per pair; a pair with one bad vote is set aside as a whole."""
    file = path / "testset-v1.json" if path.is_dir() else path
    return located(file, rejects, _comparisons)


def _comparisons(row: Row) -> Iterator[Record]:
    instruction, given = text(row, "instruction"), text(row, "input")
    prompt = user(f"{instruction}\n\n{given}" if given.strip() else instruction)
    completions = [assistant(text(row, "response1")), assistant(text(row, "response2"))]
    players = text(row, "cmp_key").split("_")
    if len(players) != 2:
        raise BadRow("cmp_key", f"must name two models, a_b, found {shown(row['cmp_key'])}")
    for annotator in ANNOTATORS:
        yield header(
            "comparison",
            f"pandalm-{column(row, 'idx')}-{annotator}",
            prompt,
            completions,
            source="pandalm",
            license="Apache-2.0",
            annotator_id=f"pandalm-{annotator}",
            guideline_version="pandalm-testset-v1",
            generator_ids=players,
        ) | {
            "outcome": _outcome(row, annotator),
            "strength": None,
            "player_a": players[0],
            "player_b": players[1],
        }


def _outcome(row: Row, annotator: str) -> str:
    vote = column(row, annotator)
    if isinstance(vote, bool) or not isinstance(vote, int) or vote not in OUTCOMES:
        raise BadRow(annotator, f"must be 0, 1 or 2, found {shown(vote)}")
    return OUTCOMES[vote]
