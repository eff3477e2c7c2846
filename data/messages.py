"""What a conversation is, when it is a good one, and the ids that name its parts by content."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from typing import Any, TypedDict

ROLES = ("system", "user", "assistant", "tool")
BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

# Unicode's spaces, control characters and invisible marks, such as those that set a direction.
INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf")
VISIBLE = r"[^\p{Z}\p{Cc}\p{Cf}]"  # finds in Arrow what is none of them

Message = dict[str, str]  # {"role": one of ROLES, "content": text}


class Prompt(TypedDict):
    """A conversation that waits for an answer."""

    prompt: list[Message]
    prompt_id: str


def sha256_of(value: object) -> str:
    """The hash of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def prompt_id_of(prompt: Sequence[Message]) -> str:
    """Names a prompt by its roles and texts, whatever the order of the keys."""
    return sha256_of([[message["role"], message["content"]] for message in prompt])


def cluster_id_of(prompt: Sequence[Message]) -> str:
    """Names prompts alike that differ in case, spaces or Unicode form only."""
    return sha256_of([[message["role"], folded(message["content"])] for message in prompt])


def completion_id_of(completion: Sequence[Message]) -> str:
    """Names an answer by its text; unique among the answers to one prompt."""
    return prompt_id_of(completion)


def folded(text: str) -> str:
    """The text without what two writings of it may differ in: case, spaces and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text."""
    return all(unicodedata.category(letter) in INVISIBLE for letter in text)


def user(text: str) -> list[Message]:
    """A prompt of one user turn."""
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[Message]:
    """An answer of one assistant turn."""
    return [{"role": "assistant", "content": text}]


def messages_problem(messages: Any) -> str | None:
    """Why a value is no list of messages, or None."""
    if not isinstance(messages, list) or not messages:
        return f"expected a list of messages, found {shown(messages)}"
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            return f"message {place} must have role and content, found {shown(message)}"
        if message["role"] not in ROLES:
            return (
                f"message {place} has role {shown(message['role'])}, not one of {', '.join(ROLES)}"
            )
        if not isinstance(message["content"], str):
            return f"message {place} has content {shown(message['content'])}, not text"
    return None


def prompt_problem(messages: Any) -> str | None:
    """Why a value is no prompt (messages, the last of them from user or tool), or None."""
    problem = messages_problem(messages)
    if problem is None and messages[-1]["role"] not in ("user", "tool"):
        problem = f"the last turn of a prompt is user's or tool's, not {messages[-1]['role']}'s"
    if problem is None and is_blank(messages[-1]["content"]):
        problem = "the last turn of the prompt is empty"
    return problem


def completion_problem(messages: Any) -> str | None:
    """Why a value is no answer (one assistant turn, no tool calls on the way), or None."""
    problem = messages_problem(messages)
    if problem is not None:
        return problem
    roles = [message["role"] for message in messages]
    if roles != ["assistant"]:
        return f"an answer is one assistant turn, found roles {', '.join(roles)}"
    return None


def printable(text: str) -> str:
    """A name on one line, with what a terminal would obey, or would not show, as an escape:
    control characters, ends of lines, and marks that turn the direction of writing."""
    return "".join(map(_escaped, text)) if not text.isprintable() else text


def _escaped(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in BIDI_CONTROLS
    return letter.encode("unicode_escape").decode() if hidden else letter


def shown(value: object, limit: int = 60) -> str:
    """A value in one short line, for an error message."""
    text = printable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= limit else text[: limit - 3] + "..."
