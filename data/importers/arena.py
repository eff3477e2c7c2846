"""Arena battle logs: two models answer the same user, who votes.

A row has `model_a`, `model_b`, who won, and what was said, in one of these layouts:

- `winner`, and two lists of messages, `conversation_a` and `conversation_b`:
  lmsys/chatbot_arena_conversations, lmsys/mt_bench_human_judgments (of which the first `turn`
  answers were judged; its judge `gpt4_pair` is a model) and lmarena-ai/arena-human-preference-100k.
  In lmarena-ai/arena-human-preference-140k a message's content is a list of parts, in
  lmarena-ai/arena-expert-5k the whole list is JSON in a text.
- `prompt`, `response_a` and `response_b`: JSON lists with one text a turn, and the winner in three
  columns, in lmarena-ai/arena-human-preference-55k (Kaggle's LMSYS competition); plain texts and
  `winner` in Kaggle's WSDM Cup 2025.

The prompt is all that comes before the last answers. In a longer battle each model goes on from its
own earlier answers, and people vote on the whole: from where the two part, all that the user said
is one prompt, and all that a model answered is one answer. A tie may mean that both were bad. Model
a was shown on the left. Zheng et al. 2023, arXiv:2306.05685.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from align.data.config import FeedbackSource
from align.data.files import Row, column, text
from align.data.importers.header import Located, header, located
from align.data.importers.texts import conversation_of, time_of
from align.data.messages import Message, assistant, prompt_problem, sha256_of, shown, user
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

OUTCOMES = {
    "model_a": "a",
    "model_b": "b",
    "tie": "tie",
    "tie (bothbad)": "tie",
    "both_bad": "tie",
}
FLAGS = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
YES_OR_NO = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}
TIMES = ("tstamp", "timestamp")
NAMES = ("id", "question_id", "evaluation_session_id", "evaluation_order")  # of a battle


def read(path: Path, rejects: Rejects, source: FeedbackSource) -> Iterator[Located]:
    """One comparison per battle; the players are the models."""
    return located(path, rejects, partial(_comparison, source=source))


def _comparison(row: Row, source: FeedbackSource) -> Iterator[Record]:
    outcome = _outcome(row)
    players = [text(row, "model_a"), text(row, "model_b")]
    ours, theirs = _conversations(row)
    last = "conversation_b" if "conversation_b" in row else "response_b"
    prompt, answers = _judged_together(ours, theirs, last)
    judge = text(row, "judge") if "judge" in row else "voters"
    is_model = judge.startswith("gpt")
    time = time_of(row, next((name for name in TIMES if name in row), TIMES[0]))
    names = [str(row[name]) for name in NAMES if row.get(name) is not None]
    battle = sha256_of([names, players, ours, theirs, time.isoformat()])[:32]
    yield header(
        "comparison",
        f"arena-{battle}-{judge}",
        prompt,
        answers,
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


def _outcome(row: Row) -> str:
    if "winner" not in row and "winner_tie" in row:
        said = {name: YES_OR_NO.get(str(column(row, name))) for name in FLAGS}
        won = [FLAGS[name] for name, flag in said.items() if flag]
        if None in said.values() or len(won) != 1:
            found = shown([row[name] for name in FLAGS])
            raise BadRow("winner_tie", f"one of {', '.join(FLAGS)} must be 1, found {found}")
        return won[0]
    outcome = OUTCOMES.get(text(row, "winner"))
    if outcome is None:
        raise BadRow(
            "winner", f"must be one of {', '.join(OUTCOMES)}, found {shown(row['winner'])}"
        )
    return outcome


def _conversations(row: Row) -> tuple[list[Message], list[Message]]:
    """What was said with either model, up to the answer that was judged."""
    if "conversation_a" in row or "prompt" not in row:
        return _judged(row, "conversation_a"), _judged(row, "conversation_b")
    names = ("prompt", "response_a", "response_b")
    texts = [text(row, name) for name in names]
    lists = [_json_list(name, text) for name, text in zip(names, texts, strict=True)]
    prompts, ours, theirs = (
        (one or [] for one in lists) if all(lists) else ([text] for text in texts)
    )
    return _zipped(prompts, ours, "response_a"), _zipped(prompts, theirs, "response_b")


def _json_list(name: str, text: str) -> list[str] | None:
    """The turns in a text, or None if it is a plain one; an answer that is null is empty."""
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(turns, list) or not all(isinstance(one, str | None) for one in turns):
        return None
    try:
        "".join(one or "" for one in turns).encode()
    except UnicodeEncodeError:
        raise BadRow(name, "half of a surrogate pair: this text has no UTF-8 form") from None
    return [one or "" for one in turns]


def _zipped(prompts: list[str], answers: list[str], name: str) -> list[Message]:
    if len(answers) != len(prompts):
        raise BadRow(name, f"has {len(answers)} answers to {len(prompts)} prompts")
    turns = zip(prompts, answers, strict=True)
    return [message for prompt, answer in turns for message in (*user(prompt), *assistant(answer))]


def _judged(row: Row, name: str) -> list[Message]:
    messages, turn = conversation_of({name: _plain(column(row, name), name)}, name), row.get("turn")
    ends = [end for end, message in enumerate(messages, 1) if message["role"] == "assistant"]
    if turn is None:
        return messages
    if isinstance(turn, bool) or not isinstance(turn, int) or not 1 <= turn <= len(ends):
        raise BadRow("turn", f"must be 1 to {len(ends)}, found {shown(turn)}")
    return messages[: ends[turn - 1]]


def _plain(value: Any, name: str) -> Any:
    """Messages without what some logs add to them: counts of tokens, and parts of the content."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow(name, f"must be a list of messages, found {shown(value)}") from None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return value
    return [
        {key: one[key] for key in ("role", "content") if key in one}
        | ({"content": _joined(one["content"], name)} if "content" in one else {})
        for one in value
    ]


def _joined(content: Any, name: str) -> Any:
    """The text of a list of parts."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise BadRow(name, f"a part of a message is no text, found {shown(part)}")
        if part.get("image") or part.get("type", "text") != "text":
            raise BadRow(name, f"a part of a message is no text alone, found {shown(part)}")
    return "\n\n".join(part["text"] for part in content)


def _judged_together(
    ours: list[Message], theirs: list[Message], name: str
) -> tuple[list[Message], list[list[Message]]]:
    """The prompt and the two answers. Raises: BadRow if the two were not asked the same."""
    asked = [[one for one in side if one["role"] != "assistant"] for side in (ours, theirs)]
    if asked[0] != asked[1] or len(ours) != len(theirs):
        raise BadRow(name, "the user said other things to one model than to the other")
    parting = next((i for i, one in enumerate(ours[:-1]) if one != theirs[i]), len(ours) - 1)
    prompt, answers = ours[:parting], [ours[parting:], theirs[parting:]]
    if len(answers[0]) > 1:
        whole = [[*prompt[-1:], *turns] for turns in answers]
        in_turn = ["user", "assistant"] * (len(whole[0]) // 2)
        if any([one["role"] for one in turns] != in_turn for turns in whole):
            raise BadRow(name, "must be a user's turn and an answer in turn where the two differ")
        prompt = [*prompt[:-1], *user(_said(whole[0], "user"))]
        answers = [assistant(_said(turns, "assistant")) for turns in answers]
    if problem := prompt_problem(prompt):
        raise BadRow(name, problem)
    return prompt, answers


def _said(turns: list[Message], role: str) -> str:
    return "\n\n".join(one["content"] for one in turns if one["role"] == role)
