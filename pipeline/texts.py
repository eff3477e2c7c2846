"""A batch of texts through a model, cut into micro-batches and shared among the ranks.

Shapes: B texts, T response tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.data.batches import Item, micro_batches
from align.pipeline import ranks
from align.policy.logprobs import TextBatch, text_batch


@dataclass(frozen=True)
class Texts:
    """Prompts and responses in token ids, whole on every rank."""

    prompts: list[list[int]]
    responses: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def whole(self) -> list[list[int]]:
        """Each prompt with its response."""
        return [
            prompt + response for prompt, response in zip(self.prompts, self.responses, strict=True)
        ]

    @property
    def tokens(self) -> int:
        """Prompt and response tokens of all texts."""
        return sum(map(len, self.prompts)) + sum(map(len, self.responses))

    def pick(self, rows: Sequence[int], device: torch.device, *, packed: bool = False) -> TextBatch:
        """Some of the texts, ready for a forward pass."""
        prompts = [self.prompts[row] for row in rows]
        return text_batch(prompts, [self.responses[row] for row in rows], device, packed=packed)

    def micro_batches(
        self, rows: Sequence[int], budget: int, *, packed: bool = False
    ) -> list[list[list[int]]]:
        """For every rank, its micro-batches of the given rows."""
        lengths = [len(self.prompts[row]) + len(self.responses[row]) for row in rows]
        items = [Item(1, length, length if packed else None) for length in lengths]
        plan = micro_batches(items, budget, ranks.world_size())
        return [[[rows[i] for i in batch] for batch in mine] for mine in plan]


def empty_batch(device: torch.device) -> TextBatch:
    """What a rank with nothing left to do sends through a model, so that ZeRO stays in step."""
    return text_batch([[0]], [[0]], device)


def per_text(
    compute: Callable[[TextBatch], Tensor],
    texts: Texts,
    budget: int,
    device: torch.device,
    *,
    packed: bool = False,
) -> Tensor:
    """`compute` over all texts without gradients: (B,) or right-padded (B, T), on the CPU."""
    plan = texts.micro_batches(range(len(texts)), budget, packed=packed)[ranks.rank()]
    mine: list[Tensor] = []
    with torch.no_grad():
        for rows in plan:
            output = compute(
                texts.pick(rows, device, packed=packed) if rows else empty_batch(device)
            )
            mine += [row.cpu() for row in output] if rows else []
    whole = ranks.scatter_rows(plan, mine, len(texts))
    if whole[0].dim() == 0:
        return torch.stack(whole)
    return torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)


def chunks(rows: Sequence[int], count: int) -> Iterator[list[int]]:
    """Cut into `count` parts of one size."""
    size = len(rows) // count
    assert size * count == len(rows), (len(rows), count)
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
