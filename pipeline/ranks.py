"""The training processes of a stage, as torch.distributed sees them."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from align.data.errors import UserError

T = TypeVar("T")


def rank() -> int:
    """This process's place in the group, from 0."""
    return dist.get_rank()


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size()


def is_main() -> bool:
    """True on the one rank that writes files and speaks."""
    return rank() == 0


def gather(value: T) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)


def on_main(work: Callable[[], T]) -> T:
    """Do something on rank 0 alone; its result, or the user's mistake it found, on every rank."""
    outcome: tuple[T | None, str | None] | None = None
    if is_main():
        try:
            outcome = (work(), None)
        except UserError as error:
            outcome = (None, str(error))
    box = [outcome]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    result, mistake = box[0]
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
