"""Arena battle logs: two models answer the same user, who votes (FastChat, LMSYS Chatbot Arena).

A row has `model_a`, `model_b`, `winner` and two conversations, of which the first `turn` answers
were judged. The prompt is all that comes before the last of them. In a longer battle each model
goes on from its own earlier answers, so the two have no prompt in common and the row is set aside.
A tie may mean that both were bad. Model a was shown on the left. MT-bench's judgements have the
same shape; its judge `gpt4_pair` is a model. Zheng et al. 2023, arXiv:2306.05685.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from align.data.config import FeedbackSource
from align.data.files import Row, text
from align.data.importers.header import Located, header, located
from align.data.importers.texts import conversation_of, shared_prompt, time_of
from align.data.messages import Message, sha256_of, shown
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
    ours, theirs = _judged(row, "conversation_a"), _judged(row, "conversation_b")
    prompt, first, second = shared_prompt(ours, theirs, "conversation_b")
    judge = text(row, "judge") if "judge" in row else "voters"
    is_model = judge.startswith("gpt")
    time = time_of(row, "tstamp")
    battle = sha256_of([row.get("question_id"), players, ours, theirs, time.isoformat()])[:32]
    yield header(
        "comparison",
        f"arena-{battle}-{judge}",
        prompt,
        [first, second],
        source="arena",
        license=source.license,
        annotator_id=f"arena-{judge}",
        annotator_kind="model" if is_model else "human",
        guideline_version=source.guideline_version,
        criterion=source.criterion or "overall",
        generator_ids=players,
        display_order=None if is_model else [0, 1],
        created_at=time,
    ) | {"outcome": outcome, "strength": None, "player_a": players[0], "player_b": players[1]}


def _judged(row: Row, name: str) -> list[Message]:
    """A conversation up to the answer that was judged."""
    messages, turn = conversation_of(row, name), row.get("turn")
    ends = [end for end, message in enumerate(messages, 1) if message["role"] == "assistant"]
    if turn is None:
        return messages
    if isinstance(turn, bool) or not isinstance(turn, int) or not 1 <= turn <= len(ends):
        raise BadRow("turn", f"must be 1 to {len(ends)}, found {shown(turn)}")
    return messages[: ends[turn - 1]]
