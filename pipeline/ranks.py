"""The training processes of a stage, as torch.distributed sees them."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from align.data.errors import UserError

T = TypeVar("T")
Group = dist.ProcessGroup | None
"""None is the group that the launcher made."""


def rank() -> int:
    """This process's place in the group, from 0."""
    return dist.get_rank()


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size()


def is_main() -> bool:
    """True on the one rank that writes files and speaks."""
    return rank() == 0


def second_group() -> Group:
    """The same ranks once more, for a second thread: the messages of two threads must not mix."""
    if world_size() == 1:
        return None
    # Rank 0 may be busy for long with a copy to far away.
    group: Group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    return group


def gather(value: T, group: Group = None) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value, group)
    return cast(list[T], values)


def on_main(work: Callable[[], T], group: Group = None) -> T:
    """Do something on rank 0 alone; its result, or the user's mistake it found, on every rank."""
    if world_size() == 1:
        return work()
    box = [_outcome(work) if is_main() else None]
    dist.broadcast_object_list(box, src=0, group=group)
    assert box[0] is not None
    return _result(box[0])


def on_all(work: Callable[[], T], group: Group = None) -> list[T]:
    """Do something on every rank; all results in rank order, or a mistake of any, on every rank."""
    return [_result(outcome) for outcome in gather(_outcome(work), group)]


Outcome = tuple[T | None, str | None]
"""A result, or the message of a UserError."""


def _outcome(work: Callable[[], T]) -> Outcome[T]:
    try:
        return work(), None
    except UserError as error:
        return None, str(error)


def _result(outcome: Outcome[T]) -> T:
    result, mistake = outcome
    if mistake is not None:
        raise UserError(mistake)
    return cast(T, result)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Element-wise sum over all ranks, in float64 so that their number changes nothing visible."""
    total = tensor.detach().to(torch.float64)
    dist.all_reduce(total)
    return total


def scatter_rows(micro: list[list[int]], mine: list[T], count: int) -> list[T]:
    """Rows that the ranks computed for their own micro-batches, put together in row order.

    `mine` holds this rank's rows in the order of its micro-batches.
    """
    owned = [index for batch in micro for index in batch]
    rows: list[T | None] = [None] * count
    for pairs in gather(list(zip(owned, mine, strict=True))):
        for index, row in pairs:
            rows[index] = row
    return cast(list[T], rows)


def barrier() -> None:
    """Wait for all ranks."""
    dist.barrier()
