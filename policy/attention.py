"""Attention within each text of a packed row, without a mask.

In a packed row texts lie end to end and positions start over at each of them. transformers keeps
them apart by a dense mask, whose cost is the square of the row. Here the kernel runs once a text,
causal and without mask, which is what flash attention does with such a row on a GPU. Everywhere
else (several rows, a cache, a mask, sliding windows) it is transformers' own `sdpa`.

Shapes: H heads, N tokens of the row, D size of a head.
"""

from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_TEXT = "sdpa_by_text"
"""Its name among transformers' attention implementations."""


def use_attention_by_text(model: PreTrainedModel) -> None:
    """Where the architecture lets its attention be chosen; others stay as they are."""
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(BY_TEXT)


@torch.no_grad()
def reads_packed(model: PreTrainedModel) -> bool:
    """Whether texts of a packed row come out as they do alone, at no more than their own cost.

    Flash attention is taken at its word: it needs a GPU, and a model is loaded on the CPU.
    """
    attention = model.config._attn_implementation
    if attention != BY_TEXT:
        return bool(attention == "flash_attention_2")
    texts = ([0, 1, 1, 0, 1], [1, 0], [1, 1, 0])
    base: Any = model.base_model

    def hidden(ids: list[int], positions: list[int]) -> Tensor:
        places = {"position_ids": torch.tensor([positions]), "use_cache": False}
        states_1ND: Tensor = base(input_ids=torch.tensor([ids]), **places).last_hidden_state
        return states_1ND[0]

    alone = torch.cat([hidden(text, [*range(len(text))]) for text in texts])
    together = hidden([*chain(*texts)], [*chain(*(range(len(text)) for text in texts))])
    return torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(alone.std()))


def text_lengths(positions_1N: Tensor) -> list[int]:
    """Tokens of each text of a packed row: a text ends where positions do not go up by one."""
    positions_N = positions_1N[0]
    ends = torch.nonzero(positions_N.diff() != 1).flatten() + 1
    bounds = [0, *ends.tolist(), len(positions_N)]
    return [end - start for start, end in pairwise(bounds)]


def attention_by_text(
    module: Any,
    query_1HND: Tensor,
    key_1HND: Tensor,
    value_1HND: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; the output is (1, N, H, D)."""
    attend: Any = sdpa_attention_forward
    heads = (query_1HND, key_1HND, value_1HND)
    packed = attention_mask is None and position_ids is not None and len(query_1HND) == 1
    lengths = text_lengths(position_ids) if packed and position_ids is not None else []
    if len(lengths) < 2:
        output: tuple[Tensor, None] = attend(module, *heads, attention_mask, **options)
        return output
    texts = zip(*(x.split(lengths, dim=2) for x in heads), strict=True)
    outputs = [attend(module, *text, None, **options)[0] for text in texts]
    return torch.cat(outputs, dim=1), None


def mask_unless_packed(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **options: Any,
) -> Tensor | None:
    """No mask for one row that is read as a whole: attention finds the texts by their positions."""
    plain = attention_mask is None and local_size is None and not use_vmap
    if plain and batch_size == 1 and q_length == kv_length:
        return None
    options |= {"attention_mask": attention_mask, "local_size": local_size, "use_vmap": use_vmap}
    mask: Tensor | None = sdpa_mask(batch_size, q_length, kv_length, **options)
    return mask


AttentionInterface.register(BY_TEXT, attention_by_text)
AttentionMaskInterface.register(BY_TEXT, mask_unless_packed)
