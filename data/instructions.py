"""Instructions for SFT and prompts for PPO, from files of several shapes.

A row gives one or more exchanges (prompt, answer). SFT learns every answer; PPO takes the prompt
of the last exchange and ignores its answer, which may be missing.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from align.data.demo import demo_instructions, demo_prompts
from align.data.errors import UserError
from align.data.exchanges import Exchange, Instruction, Reading
from align.data.files import Row
from align.data.instruction_config import InstructionSource, NaturalFields
from align.data.instruction_formats import PARSERS
from align.data.messages import (
    Message,
    cluster_id_of,
    completion_problem,
    prompt_problem,
)
from align.data.rejects import BadRow, Rejects
from align.data.source_rows import source_rows
from align.data.tasks.instances import Instance, to_messages
from align.data.tasks.natural import answers_of, described, read_task, task_files
from align.data.tasks.people import Admission
from align.data.tasks.rules import Rules
from align.data.tasks.showing import with_demonstrations
from align.data.tasks.wording import wording

UNKNOWN = "unknown"
Located = Iterator[tuple[Path, int, Row, list[Exchange] | BadRow]]
Check = Callable[[list[Exchange]], None]


def instructions_of(
    source: InstructionSource, rejects: Rejects, reading: Reading
) -> Iterator[Instruction]:
    """Every answered exchange of a source, row by row. Raises: DataError if it has none."""
    if source.format == "demo":
        for row in _demo(lambda rows: demo_instructions(rows, reading.seed), source):
            exchange = Exchange(row["prompt"], row["completion"])
            yield _instruction(source, row, exchange, cluster_id_of(row["prompt"]))
    elif source.demonstrations is None:
        yield from _answered(source, rejects, reading.seed)
    else:
        counted_once = iter([rejects])  # the rows are read twice, and rejected the first time
        yield from with_demonstrations(
            lambda: _answered(source, next(counted_once, Rejects(None)), reading.seed),
            source.demonstrations,
            reading,
        )


def prompts_of(
    source: InstructionSource, rejects: Rejects, seed: int = 0, split: str = "ppo"
) -> Iterator[Instruction]:
    """The prompt of the last exchange of every row of a source. Raises: DataError if it has none.

    `seed` and `split` (sft|feedback|ppo|heldout) are the demo's.
    """
    if source.format == "demo":
        for row in _demo(lambda rows: demo_prompts(rows, seed, split), source):
            exchange = Exchange(row["prompt"], None)
            yield _instruction(source, row, exchange, cluster_id_of(row["prompt"]))
        return
    for row, exchanges, group in _good_rows(source, rejects, _any_prompt, seed):
        yield _instruction(source, row, exchanges[-1], group)


def _demo(generate: Callable[[int], list[Row]], source: InstructionSource) -> list[Row]:
    assert source.rows is not None  # the config demands it
    try:
        return generate(source.rows)
    except ValueError as error:
        raise UserError(str(error)) from None


def _answered(source: InstructionSource, rejects: Rejects, seed: int) -> Iterator[Instruction]:
    check = _some_text if source.format == "text" else _all_answered
    for row, exchanges, group in _good_rows(source, rejects, check, seed):
        for exchange in exchanges:
            yield _instruction(source, row, exchange, group)


def _instruction(
    source: InstructionSource, row: Row, exchange: Exchange, group: str
) -> Instruction:
    """What the exchange does not know, the row's columns say, and else the source."""
    prompt, known = exchange.prompt, exchange.known
    if source.system is not None and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": source.system}, *prompt]
    task = row.get("task_id") or source.task or source.named
    return Instruction(
        prompt,
        exchange.completion,
        source.named,
        known.get("task_id", str(task)),
        known.get("license", str(row.get("license") or source.license or UNKNOWN)),
        known.get("template_id", source.format),
        group,
        known.get("label", ""),
        exchange.instance or _as_instance(exchange),
        prompt,
    )


def _as_instance(exchange: Exchange) -> Instance | None:
    """A question of one turn as a case of a task that has no description."""
    turns = [message for message in exchange.prompt if message["role"] != "system"]
    if len(turns) != 1 or exchange.completion is None:
        return None
    return Instance("", turns[0]["content"], exchange.completion[0]["content"])


def _good_rows(
    source: InstructionSource, rejects: Rejects, check: Check, seed: int
) -> Iterator[tuple[Row, list[Exchange], str]]:
    """Row, exchanges and split group of each good row, until the source's `rows` are reached."""
    admission = Admission(source.people) if source.people else None
    taken = 0
    for file, line, row, exchanges in _located(source, rejects, seed):
        try:
            if isinstance(exchanges, BadRow):
                raise exchanges
            check(exchanges)
            first = exchanges[0]
            if admission:
                group = admission.group(row, first)
            else:  # all turns of a conversation are in one split
                group = first.known.get("group") or cluster_id_of(first.prompt or _answer(first))
        except BadRow as bad:
            rejects.add(file, line, bad.field, bad.reason)
            continue
        if group is None:
            continue
        yield row, exchanges, group
        taken += 1
        if taken == source.rows:
            return
    if not taken:
        raise rejects.no_good_row(source.path or Path(source.named))


def _located(source: InstructionSource, rejects: Rejects, seed: int) -> Located:
    """File, line and row with its exchanges, or with what is wrong with it."""
    if source.format == "natural_instructions":
        yield from _natural(source, rejects)
        return
    parse = _parser(source, seed)
    for file, line, row in source_rows(source, rejects):
        try:
            yield file, line, row, parse(row)
        except BadRow as bad:
            yield file, line, row, bad


def _parser(source: InstructionSource, seed: int) -> Callable[[Row], list[Exchange]]:
    if source.templates is not None:
        rows = (row for _, _, row in source_rows(source, Rejects(None)))
        return wording(source.templates, seed, rows, source.task).exchanges
    if source.format == "unlabelled":
        return Rules(source.language, seed).exchanges
    return PARSERS[source.format]


def _natural(source: InstructionSource, rejects: Rejects) -> Located:
    """An instance's place is its number in the file of its task; its first output is learnt."""
    assert source.path is not None  # the config demands it
    fields = source.fields or NaturalFields()
    for file in task_files(source.path):
        task = read_task(file)
        known = {"task_id": task.task_id, "template_id": "natural_instructions"}
        if task.license:
            known["license"] = task.license
        for number, row in enumerate(task.instances, start=1):
            rejects.seen += 1
            try:
                given, outputs = answers_of(row)
            except BadRow as bad:
                yield file, number, {}, bad
                continue
            answer = outputs[0] if outputs else ""
            instance = Instance(described(task, fields), given, answer)
            prompt, completion = to_messages(instance)
            yield file, number, row, [Exchange(prompt, completion, known, instance)]


def _all_answered(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        _check("prompt", prompt_problem(exchange.prompt))
        if exchange.completion is None:
            raise BadRow("completion", "there is no answer to learn")
        _check("completion", completion_problem(exchange.completion))
        _some_text([exchange])


def _some_text(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        if not exchange.completion or not exchange.completion[-1]["content"].strip():
            raise BadRow("completion", "the answer is empty")


def _answer(exchange: Exchange) -> list[Message]:
    return exchange.completion or []


def _any_prompt(exchanges: list[Exchange]) -> None:
    _check("prompt", prompt_problem(exchanges[-1].prompt))


def _check(field: str, problem: str | None) -> None:
    if problem is not None:
        raise BadRow(field, problem)
