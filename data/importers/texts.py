"""Prompts, answers and times as exports write them, each checked in its row."""

from datetime import UTC, datetime
from typing import Any

from align.data.files import Row, column
from align.data.importers.header import UNKNOWN_TIME
from align.data.messages import (
    Message,
    assistant,
    completion_problem,
    messages_problem,
    prompt_problem,
    shown,
    user,
)
from align.data.rejects import BadRow


def prompt_of(row: Row, name: str) -> list[Message]:
    """A text, as one user turn, or a list of messages that ends with the user. Raises: BadRow."""
    value = column(row, name)
    prompt = user(value) if isinstance(value, str) else _without_nulls(value)
    if problem := prompt_problem(prompt):
        raise BadRow(name, problem)
    return list(prompt)


def answer_of(row: Row, name: str) -> list[Message]:
    """A text, or a list of one assistant message. Raises: BadRow."""
    value = column(row, name)
    answer = assistant(value) if isinstance(value, str) else _without_nulls(value)
    if problem := completion_problem(answer):
        raise BadRow(name, problem)
    return list(answer)


def conversation_of(row: Row, name: str) -> list[Message]:
    """A list of messages that ends with an answer. Raises: BadRow."""
    messages = _without_nulls(column(row, name))
    if problem := messages_problem(messages):
        raise BadRow(name, problem)
    if messages[-1]["role"] != "assistant":
        raise BadRow(name, f"must end with an answer, found {shown(messages[-1])}")
    return list(messages)


def _without_nulls(messages: Any) -> Any:
    """Messages without the keys that only others of a table have, such as `tool_calls`."""
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return messages
    kept = ("role", "content")
    return [
        {key: value for key, value in one.items() if value is not None or key in kept}
        for one in messages
    ]


def shared_prompt(
    ours: list[Message], theirs: list[Message], name: str
) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt and last answers of two conversations; `name` is the field of the second.

    Raises: BadRow if they differ before the last answer: then the two are not answers to one
    prompt.
    """
    if ours[:-1] != theirs[:-1]:
        raise BadRow(name, "the two conversations differ before the last answer")
    if problem := prompt_problem(ours[:-1]):
        raise BadRow(name, problem)
    return ours[:-1], ours[-1:], theirs[-1:]


def time_of(row: Row, name: str) -> datetime:
    """ISO text, a datetime or seconds since 1970, in UTC where no zone is given.

    `UNKNOWN_TIME` where there is none. Raises: BadRow.
    """
    value = row.get(name)
    if value is None:
        return UNKNOWN_TIME
    try:
        if isinstance(value, str | datetime):
            time = datetime.fromisoformat(value) if isinstance(value, str) else value
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise BadRow(name, f"must be a time, found {shown(value)}")
