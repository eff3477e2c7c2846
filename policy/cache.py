"""A key-value cache that is not copied for every token, and not for every row that ends.

transformers' own layer concatenates all keys and values at each step, a fifth of the time in which
a small model decodes.

Shapes: B rows, H heads, L tokens, D width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 128
"""Tokens by which a full layer grows."""


class RoomyLayer(DynamicLayer):
    """Keys and values at the front of larger tensors; new tokens and surviving rows are written
    into them."""

    def __init__(self, filled: DynamicLayer, longest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert filled.keys is not None and filled.values is not None
        self.lazy_initialization(filled.keys, filled.values)
        self._longest = longest
        self._buffers = [filled.keys, filled.values]
        self._show(filled.get_seq_length())

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens, (B, H, L, D)."""
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if after > self._buffers[0].shape[-2]:
            room = max(min(after + ROOM, self._longest), after) - self._buffers[0].shape[-2]
            self._buffers = [pad(buffer_BHLD, (0, 0, 0, room)) for buffer_BHLD in self._buffers]
        for buffer_BHLD, states_BHLD in zip(self._buffers, (key_states, value_states), strict=True):
            buffer_BHLD[:, :, before:after] = states_BHLD
        return self._show(after)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, at most as many as there are; those that stay in place cost nothing."""
        places = torch.arange(len(indices), device=indices.device)
        moved = (indices != places).nonzero().squeeze(1)
        length = self.get_seq_length()
        for buffer_BHLD in self._buffers:
            buffer_BHLD[moved, :, :length] = buffer_BHLD[indices[moved], :, :length]
        self._buffers = [buffer_BHLD[: len(indices)] for buffer_BHLD in self._buffers]
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer_BHLD[:, :, :length] for buffer_BHLD in self._buffers)
        return self.keys, self.values


def with_room(cache: DynamicCache, longest: int) -> None:
    """Give the plain layers of a filled cache room to grow up to so many tokens, in place; others
    (sliding windows, states of linear attention) stay as they are."""
    cache.layers = [
        RoomyLayer(layer, longest) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
