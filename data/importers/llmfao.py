"""LLMFAO: crowd votes (left, right, tie) on pairs of model answers to 13 prompts.

The folder holds `pairs-crowd.jsonl` (what was shown, x on the left) and `crowd-comparisons.csv`
(one vote a row). Players are the models. A tie may also mean that both answers were wrong
(`crowd-instruction.md`). CC BY 4.0, github.com/dustalov/llmfao.
"""

from collections.abc import Iterator
from pathlib import Path

from align.data.errors import DataError
from align.data.files import Row, column, read_rows, text
from align.data.importers.header import Located, header, located
from align.data.messages import assistant, shown, user
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

OUTCOMES = {"left": "a", "right": "b", "tie": "tie"}


def read(path: Path, rejects: Rejects) -> Iterator[Located]:
    """One comparison per vote."""
    folder = path if path.is_dir() else path.parent
    pairs = _read_pairs(folder / "pairs-crowd.jsonl", rejects)
    votes = folder / "crowd-comparisons.csv"
    return located(votes, rejects, lambda row: [_comparison(row, pairs)])


def _read_pairs(path: Path, rejects: Rejects) -> dict[str, Row]:
    """What each pair id showed. A bad pair is set aside, and so are the votes on it."""
    pairs: dict[str, Row] = {}
    for line, row in read_rows(path, rejects):
        try:
            for name in ("text", "result_x", "result_y"):
                text(row, name)
            pairs[str(column(row, "id"))] = row
        except BadRow as bad:
            rejects.add(path, line, bad.field, bad.reason)
    if not pairs:
        raise DataError(f"{path}:1: no pairs in it")
    return pairs


def _comparison(vote: Row, pairs: dict[str, Row]) -> Record:
    pair = pairs.get(column(vote, "id"))
    if pair is None:
        raise BadRow("id", f"no pair {shown(vote['id'])} in pairs-crowd.jsonl")
    outcome = OUTCOMES.get(column(vote, "winner"))
    if outcome is None:
        raise BadRow("winner", f"must be left, right or tie, found {shown(vote['winner'])}")
    players = [text(vote, "left"), text(vote, "right")]
    return header(
        "comparison",
        f"llmfao-{vote['id']}-{column(vote, 'worker')}",
        user(pair["text"]),
        [assistant(pair["result_x"]), assistant(pair["result_y"])],
        source="llmfao",
        license="CC-BY-4.0",
        annotator_id=f"llmfao-worker-{vote['worker']}",
        guideline_version="llmfao/crowd-instruction.md",
        generator_ids=players,
        display_order=[0, 1],
    ) | {"outcome": outcome, "strength": None, "player_a": players[0], "player_b": players[1]}
