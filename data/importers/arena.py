"""Arena battle logs: two models answer the same user, who votes (FastChat, LMSYS Chatbot Arena).

A row has `model_a`, `model_b`, `winner` and two whole conversations. The prompt is all that comes
before the last answers. In a longer battle each model went on from its own earlier answers, so the
two have no prompt in common and the row is set aside. A tie may mean that both were bad. Model a
was shown on the left. Zheng et al. 2023, arXiv:2306.05685.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from align.data.config import FeedbackSource
from align.data.files import Row, text
from align.data.importers.header import Located, header, located
from align.data.importers.texts import conversation_of, shared_prompt, time_of
from align.data.messages import sha256_of, shown
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

OUTCOMES = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie"}


def read(path: Path, rejects: Rejects, source: FeedbackSource) -> Iterator[Located]:
    """One comparison per battle; the players are the models."""
    return located(path, rejects, partial(_comparison, source=source))


def _comparison(row: Row, source: FeedbackSource) -> Iterator[Record]:
    outcome = OUTCOMES.get(text(row, "winner"))
    if outcome is None:
        raise BadRow(
            "winner", f"must be one of {', '.join(OUTCOMES)}, found {shown(row['winner'])}"
        )
    players = [text(row, "model_a"), text(row, "model_b")]
    ours, theirs = conversation_of(row, "conversation_a"), conversation_of(row, "conversation_b")
    prompt, first, second = shared_prompt(ours, theirs, "conversation_b")
    judge = text(row, "judge") if "judge" in row else "voters"
    battle = row.get("question_id") or sha256_of([ours, theirs, row.get("tstamp")])[:32]
    yield header(
        "comparison",
        f"arena-{battle}-{judge}",
        prompt,
        [first, second],
        source="arena",
        license=source.license,
        annotator_id=f"arena-{judge}",
        guideline_version=source.guideline_version,
        criterion=source.criterion or "overall",
        generator_ids=players,
        display_order=[0, 1],
        created_at=time_of(row, "tstamp"),
    ) | {"outcome": outcome, "strength": None, "player_a": players[0], "player_b": players[1]}
