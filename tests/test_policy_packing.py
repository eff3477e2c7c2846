"""Packed texts score as they do alone, in every family of models."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from align.policy.logprobs import text_batch, text_scores
from align.policy.model import TokenScores
from align.policy.packing import packed_batch, packed_scores

CPU = torch.device("cpu")
TinyModel = Callable[[str], PreTrainedModel]


def texts(count: int = 9) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(3, 300, (length,), generator=generator).tolist()
        for length in torch.randint(1, 40, (count,), generator=generator).tolist()
    ]


@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_packed_texts_score_as_they_do_alone(
    tiny_scalar: TinyModel, family: str, one_row: bool
) -> None:
    model = TokenScores(tiny_scalar(family))
    alone = torch.cat([text_scores(model, text_batch([text], [[]], CPU)) for text in texts()])
    packed = packed_scores(model, packed_batch(texts(), CPU, one_row=one_row))
    assert torch.allclose(packed, alone, atol=1e-5)
    assert alone.std() > 0.1


def test_packed_texts_have_the_gradient_of_padded_ones(tiny_scalar: TinyModel) -> None:
    gradients = []
    for packing in (False, True):
        model = TokenScores(tiny_scalar("llama"))
        if packing:
            scores = packed_scores(model, packed_batch(texts(), CPU))
        else:
            scores = text_scores(model, text_batch(texts(), [[] for _ in texts()], CPU))
        scores.square().sum().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
    padded, packed = gradients
    assert torch.allclose(packed, padded, rtol=1e-3, atol=1e-4 * float(padded.abs().max()))


def test_packing_leaves_hardly_any_padding() -> None:
    batch = packed_batch(texts(60), CPU)
    assert batch.ids_RL.numel() < 1.1 * sum(map(len, texts(60)))
    assert batch.ids_RL.shape[1] == max(map(len, texts(60)))


def test_every_text_lies_whole_in_its_row() -> None:
    batch = packed_batch(texts(), CPU)
    for text, row, last in zip(texts(), batch.row_B.tolist(), batch.last_B.tolist(), strict=True):
        span = slice(last + 1 - len(text), last + 1)
        assert batch.ids_RL[row, span].tolist() == text
        assert batch.positions_RL[row, span].tolist() == list(range(len(text)))
