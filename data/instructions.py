"""Instructions for SFT and prompts for PPO, from files of several shapes.

A row gives one or more exchanges (prompt, answer). SFT learns every answer; PPO takes the prompt
of the last exchange and ignores its answer, which may be missing.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from align.data.config import InstructionSource
from align.data.demo import demo_instructions, demo_prompts
from align.data.errors import UserError
from align.data.files import Row, column, read_rows, text
from align.data.messages import (
    Example,
    Message,
    Prompt,
    assistant,
    completion_problem,
    messages_problem,
    prompt_id_of,
    prompt_problem,
    shown,
    user,
)
from align.data.rejects import BadRow, Rejects

Exchange = tuple[list[Message], list[Message] | None]


def read_instructions(
    sources: Sequence[InstructionSource],
    max_rejected: float,
    rejected_path: Path | None,
    seed: int = 0,
) -> list[Example]:
    """All exchanges of all sources; `seed` is the demo's.

    Raises: DataError if too many rows are bad, or a source has no good one.
    """
    rejects = Rejects(rejected_path, max_rejected)
    examples: list[Example] = []
    for source in sources:
        if source.format == "demo":
            for row in _demo(lambda rows: demo_instructions(rows, seed), source):
                examples.append({"prompt": row["prompt"], "completion": row["completion"]})
        else:
            for exchanges in _good_rows(source, rejects, _all_answered):
                examples += _examples(exchanges)
    rejects.finish()
    return examples


def read_prompts(
    sources: Sequence[InstructionSource],
    max_rejected: float,
    rejected_path: Path | None,
    seed: int = 0,
    split: str = "ppo",
) -> list[Prompt]:
    """The prompts of all sources; `seed` and `split` (sft|feedback|ppo|heldout) are the demo's.

    Raises: DataError if too many rows are bad, or a source has no good one.
    """
    rejects = Rejects(rejected_path, max_rejected)
    prompts: list[list[Message]] = []
    for source in sources:
        if source.format == "demo":
            rows = _demo(lambda rows: demo_prompts(rows, seed, split), source)
            prompts += [row["prompt"] for row in rows]
        else:
            prompts += [rows[-1][0] for rows in _good_rows(source, rejects, _any_prompt)]
    rejects.finish()
    return [{"prompt": prompt, "prompt_id": prompt_id_of(prompt)} for prompt in prompts]


def _demo(generate: Callable[[int], list[Row]], source: InstructionSource) -> list[Row]:
    assert source.rows is not None  # the config demands it
    try:
        return generate(source.rows)
    except ValueError as error:
        raise UserError(str(error)) from None


def _good_rows(
    source: InstructionSource,
    rejects: Rejects,
    check: Callable[[list[Exchange]], None],
) -> Iterator[list[Exchange]]:
    """The exchanges of each good row, until the source's number of rows is reached."""
    assert source.path is not None  # the config demands it
    taken = 0
    for line, row in read_rows(source.path, rejects):
        try:
            exchanges = PARSERS[source.format](row)
            check(exchanges)
        except BadRow as bad:
            rejects.add(source.path, line, bad.field, bad.reason)
            continue
        yield exchanges
        taken += 1
        if taken == source.rows:
            return
    if not taken:
        raise rejects.no_good_row(source.path)


def _examples(exchanges: list[Exchange]) -> Iterator[Example]:
    for prompt, completion in exchanges:
        assert completion is not None  # _all_answered saw to it
        yield {"prompt": prompt, "completion": completion}


def _all_answered(exchanges: list[Exchange]) -> None:
    for prompt, completion in exchanges:
        _check("prompt", prompt_problem(prompt))
        if completion is None:
            raise BadRow("completion", "there is no answer to learn")
        _check("completion", completion_problem(completion))
        if not completion[-1]["content"].strip():
            raise BadRow("completion", "the answer is empty")


def _any_prompt(exchanges: list[Exchange]) -> None:
    _check("prompt", prompt_problem(exchanges[-1][0]))


def _check(field: str, problem: str | None) -> None:
    if problem is not None:
        raise BadRow(field, problem)


def _messages(row: Row) -> list[Exchange]:
    """{"messages": [...]}: every assistant turn is an answer to all that stands before it."""
    messages = column(row, "messages")
    _check("messages", messages_problem(messages))
    turns = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    exchanges: list[Exchange] = [(messages[:place], [messages[place]]) for place in turns]
    if not turns or turns[-1] != len(messages) - 1:
        exchanges.append((messages, None))
    return exchanges


def _prompt_completion(row: Row) -> list[Exchange]:
    """{"prompt": ..., "completion": ...}: texts, or lists of messages."""
    prompt, completion = column(row, "prompt"), row.get("completion")
    if isinstance(prompt, str):
        prompt = user(prompt)
    if isinstance(completion, str):
        completion = assistant(completion)
    return [(prompt, completion)]


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
    return user(prompt), assistant(text(row, "output")) if "output" in row else None


PARSERS: dict[str, Callable[[Row], list[Exchange]]] = {
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "self_instruct": _self_instruct,
}
