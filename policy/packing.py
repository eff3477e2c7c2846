"""Texts that share rows without padding: each token's position starts over at its text's start.

Where positions do not go up by one, transformers cuts the attention, so no text sees another. It
does so only without a mask and without a cache. Rows are as long as the longest text: one row for
all texts would cost attention the square of their sum wherever its mask is dense.

Shapes: R rows, L tokens of a row, B texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.data.batches import packed_rows


@dataclass(frozen=True)
class PackedBatch:
    """Texts ready for one forward pass."""

    ids_RL: Tensor
    positions_RL: Tensor
    row_B: Tensor
    last_B: Tensor
    """Position of each text's last token in its row."""


def packed_batch(
    texts: Sequence[list[int]], device: torch.device, *, one_row: bool = False
) -> PackedBatch:
    """Pack the texts; `one_row` is for attention kernels that take several documents in a row.

    What is left of a row is one more document, of id 0.
    """
    lengths = [len(text) for text in texts]
    capacity = sum(lengths) if one_row else max(lengths)
    rows = packed_rows(lengths, capacity)
    ids_RL = torch.zeros(len(rows), capacity, dtype=torch.long)
    positions_RL = torch.zeros_like(ids_RL)
    row_B, last_B = torch.zeros(2, len(texts), dtype=torch.long)
    for row, places in enumerate(rows):
        end = 0
        for place in places:
            start, end = end, end + lengths[place]
            ids_RL[row, start:end] = torch.tensor(texts[place])
            positions_RL[row, start:end] = torch.arange(lengths[place])
            row_B[place], last_B[place] = row, end - 1
        positions_RL[row, end:] = torch.arange(capacity - end)
    return PackedBatch(*(x.to(device) for x in (ids_RL, positions_RL, row_B, last_B)))


def packed_scores(model: Callable[[Tensor, Tensor], Tensor], batch: PackedBatch) -> Tensor:
    """The scalar read at each text's last token, (B); of several heads, (B, heads)."""
    scores_RL = model(batch.ids_RL, batch.positions_RL)
    return scores_RL[batch.row_B, batch.last_B].float()
