"""Texts that grow by a token at a time: a causal model and its cache behind three calls.

Shapes: B rows, P distinct prompts, L tokens so far, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from align.policy.cache import with_room


class Decoder:
    """One row per prompt; equal prompts share the pass that reads them."""

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[list[int]], most_tokens: int
    ) -> None:
        """Nothing is read yet; `most_tokens` is how far a row may grow."""
        self._model = model
        distinct = [*dict.fromkeys(map(tuple, prompts))]
        places = {prompt: place for place, prompt in enumerate(distinct)}
        self._prompt_of_row_B = torch.tensor(
            [places[tuple(prompt)] for prompt in prompts], device=model.device
        )
        self._ids_PL, self._mask_BL = _left_pad(distinct, most_tokens, model.device)
        self._length = self._ids_PL.shape[1]
        self._positions_B1 = self._mask_BL.sum(dim=1, keepdim=True) - most_tokens
        self._cache = DynamicCache(config=model.config)

    def read_prompts(self) -> Tensor:
        """Logits of each row's first token, (B, V)."""
        mask_PL = self._mask_BL[:, : self._length]
        positions_PL = (mask_PL.cumsum(dim=1) - 1).clamp(min=0)
        logits_PV = self._forward(self._ids_PL, positions_PL)
        self.keep(self._prompt_of_row_B)
        with_room(self._cache, self._mask_BL.shape[1])
        return logits_PV[self._prompt_of_row_B]

    def append(self, tokens_B: Tensor) -> Tensor:
        """Logits of the token after these, (B, V)."""
        self._length += 1
        logits_BV = self._forward(tokens_B[:, None], self._positions_B1)
        self._positions_B1 = self._positions_B1 + 1
        return logits_BV

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, in this order."""
        self._cache.batch_select_indices(rows)
        self._mask_BL, self._positions_B1 = self._mask_BL[rows], self._positions_B1[rows]

    def _forward(self, ids_BL: Tensor, positions_BL: Tensor) -> Tensor:
        logits_BLV: Tensor = self._model(
            input_ids=ids_BL,
            attention_mask=self._mask_BL[:, : self._length],
            position_ids=positions_BL,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits_BLV[:, -1]


def _left_pad(
    prompts: Sequence[tuple[int, ...]], room: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids (P, L), padded with id 0, and the mask of real tokens, with `room` more columns."""
    longest = max(map(len, prompts))
    ids_PL = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask_PL = torch.zeros(len(prompts), longest + room, dtype=torch.long)
    for ids_L, mask_L, prompt in zip(ids_PL, mask_PL, prompts, strict=True):
        ids_L[longest - len(prompt) :] = torch.tensor(prompt)
        mask_L[longest - len(prompt) :] = 1
    return ids_PL.to(device), mask_PL.to(device)
