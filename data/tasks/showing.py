"""Instructions with solved cases of their task in the prompt."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from align.data.chance import unit
from align.data.exchanges import Instruction, Reading
from align.data.instruction_config import Demonstrations
from align.data.messages import Message
from align.data.tasks.demonstrations import POOL, choose, fitting, shots
from align.data.tasks.instances import Demonstration, Instance, to_messages

Pools = dict[tuple[str, str], list[Demonstration]]
"""By task and wording: reasons are shown only where reasons are asked for."""


def with_demonstrations(
    rows: Callable[[], Iterator[Instruction]], wanted: Demonstrations, reading: Reading
) -> Iterator[Instruction]:
    """The rows, which are read twice: once for what can be shown, once to show it."""
    found = pools(rows(), reading)
    for row in rows():
        if row.instance is None:
            yield row
            continue
        key = (reading.seed, row.source, row.instance.input, row.instance.output)
        count = shots(wanted.share, wanted.most, *key)
        shown = choose(found.get((row.task_id, row.template_id), []), row.instance, count, *key)
        system = row.prompt[:1] if row.prompt[0]["role"] == "system" else []
        yield _written(replace(row.instance, demonstrations=shown), row, system, reading)


def pools(rows: Iterable[Instruction], reading: Reading) -> Pools:
    """Cases of each task that may be shown: of training rows, those with the least hash."""
    found: dict[tuple[str, str], dict[Demonstration, float]] = {}
    for row in rows:
        if row.instance is None or reading.split(row.group) == "test":
            continue
        case = Demonstration(row.instance.input, row.instance.output)
        pool = found.setdefault((row.task_id, row.template_id), {})
        pool[case] = unit("pool", reading.seed, case.input, case.output)
        if len(pool) > POOL:
            del pool[max(pool, key=lambda one: (pool[one], one.input))]
    return {task: sorted(pool, key=lambda one: one.input) for task, pool in found.items()}


def _written(
    instance: Instance, row: Instruction, system: list[Message], reading: Reading
) -> Instruction:
    if not instance.demonstrations:
        return row
    counted = reading.prompt_tokens
    if counted is not None:
        instance = fitting(
            instance,
            reading.max_prompt_length,
            lambda one: counted([*system, *to_messages(one)[0]]),
        )
    if not instance.demonstrations:
        return row
    return replace(row, prompt=[*system, *to_messages(instance)[0]], instance=instance)
