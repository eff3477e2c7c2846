"""What a row of each instruction format says: one or more exchanges of prompt and answer."""

from collections.abc import Callable
from typing import Any

from align.data.exchanges import Exchange
from align.data.files import Row, column, text
from align.data.messages import Message, assistant, messages_problem, shown, user
from align.data.rejects import BadRow

SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Who speaks in a ShareGPT conversation -> the role."""


IGNORED = {"name", "tool_call_id", "weight"}
"""Keys of a message that a chat template does not write; of weights see `_turns`."""
CALLS = ("tool_calls", "function_call")


def _messages(row: Row) -> list[Exchange]:
    """{"messages": [...]}: every assistant turn is an answer to all that stands before it."""
    return _turns(column(row, "messages"))


def _sharegpt(row: Row) -> list[Exchange]:
    """{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", ...}]}."""
    turns = column(row, "conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("conversations", f"must be a list of turns, found {shown(turns)}")
    messages = [_turn(turn) for turn in turns]
    if row.get("system"):
        messages.insert(0, {"role": "system", "content": text(row, "system")})
    return _turns(messages)


def _turn(turn: Row) -> Message:
    speaker = text(turn, "from")
    if speaker not in SPEAKERS:
        known = ", ".join(SPEAKERS)
        raise BadRow("conversations", f"{shown(speaker)} speaks, who is none of {known}")
    return {"role": SPEAKERS[speaker], "content": text(turn, "value")}


def _turns(messages: Any) -> list[Exchange]:
    """An assistant's turn of weight 0 is read and not learnt, as in OpenAI's files."""
    bare = _bare(messages)
    problem = messages_problem(bare)
    if problem is not None:
        raise BadRow("messages", problem)
    turns = [place for place, message in enumerate(bare) if message["role"] == "assistant"]
    learnt = [place for place in turns if _is_learnt(place, messages[place])]
    if turns and not learnt:
        raise BadRow("messages", "every assistant turn has weight 0: there is nothing to learn")
    exchanges = [Exchange(bare[:place], [bare[place]]) for place in learnt]
    if not turns or turns[-1] != len(bare) - 1:
        exchanges.append(Exchange(bare, None))
    return exchanges


def _bare(messages: Any) -> Any:
    """Messages with role and content, and what else cannot be ignored. Raises: BadRow."""
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return messages
    for place, message in enumerate(messages):
        for name in CALLS:
            if message.get(name):
                raise BadRow(
                    "messages", f"message {place} calls tools ({name}); leave such rows out"
                )
    return [
        {
            name: value
            for name, value in message.items()
            if name in ("role", "content") or not (value in (None, []) or name in IGNORED)
        }
        for message in messages
    ]


def _is_learnt(place: int, message: Row) -> bool:
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise BadRow("messages", f"message {place} has weight {shown(weight)}, not 0 or 1")
    return weight != 0


def _prompt_completion(row: Row) -> list[Exchange]:
    """{"prompt": ..., "completion": ...}: texts, or lists of messages."""
    prompt, completion = _bare(column(row, "prompt")), _bare(row.get("completion"))
    if isinstance(prompt, str):
        prompt = user(prompt)
    if isinstance(completion, str):
        completion = assistant(completion)
    return [Exchange(prompt, completion)]


def _alpaca(row: Row) -> list[Exchange]:
    """{"instruction", "input", "output"}; the input may be empty or missing."""
    return [_instruction(text(row, "instruction"), row)]


def _self_instruct(row: Row) -> list[Exchange]:
    """Seed tasks: {"instruction": ..., "instances": [{"input": ..., "output": ...}, ...]}."""
    instruction, instances = text(row, "instruction"), column(row, "instances")
    if not isinstance(instances, list) or not instances:
        raise BadRow("instances", f"must be a list of inputs and outputs, found {shown(instances)}")
    for instance in instances:
        if not isinstance(instance, dict):
            raise BadRow("instances", f"must have input and output, found {shown(instance)}")
    return [_instruction(instruction, instance) for instance in instances]


def _instruction(instruction: str, row: Row) -> Exchange:
    """An instruction and its input, a blank line apart, as one user turn."""
    given = text(row, "input") if row.get("input") else ""
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    return Exchange(user(prompt), assistant(text(row, "output")) if "output" in row else None)


def _text(row: Row) -> list[Exchange]:
    """{"text": ...}: all of it is learnt, and nothing is asked."""
    return [Exchange([], assistant(text(row, "text")))]


PARSERS: dict[str, Callable[[Row], list[Exchange]]] = {
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "self_instruct": _self_instruct,
    "sharegpt": _sharegpt,
    "text": _text,
}
