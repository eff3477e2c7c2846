"""Texts through a model in micro-batches, back in their own order."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.pipeline import ranks
from align.pipeline.texts import Texts, chunks, empty_batch, per_text
from align.policy.logprobs import TextBatch, response_logprobs, text_batch

pytestmark = pytest.mark.usefixtures("one_rank")

CPU = torch.device("cpu")


def random_texts(count: int) -> Texts:
    generator = np.random.default_rng(0)

    def ids(longest: int) -> list[int]:
        return [int(i) for i in generator.integers(3, 300, generator.integers(1, longest))]

    return Texts([ids(12) for _ in range(count)], [ids(9) for _ in range(count)])


def test_micro_batches_change_no_number_and_no_order(
    tiny_causal: Callable[[str], PreTrainedModel],
) -> None:
    model, texts = tiny_causal("llama"), random_texts(13)

    def logprobs(batch: TextBatch) -> Tensor:
        return response_logprobs(model, batch, 0.7)[0]

    with torch.no_grad():
        expected = logprobs(text_batch(texts.prompts, texts.responses, CPU))
    for budget in (1, 50, 10**6):
        found = per_text(logprobs, texts, budget, CPU)
        assert found.shape == expected.shape and not found.requires_grad
        assert torch.allclose(found, expected, atol=1e-5)


def test_one_number_per_text_comes_back_in_order() -> None:
    texts = random_texts(13)
    found = per_text(lambda batch: batch.ids_RL[:, 0].float(), texts, 30, CPU)
    assert found.tolist() == [prompt[0] for prompt in texts.prompts]


def test_a_pass_stays_within_the_budget() -> None:
    sizes = []

    def compute(batch: TextBatch) -> Tensor:
        sizes.append(batch.ids_RL.numel())
        return batch.ids_RL[:, 0]

    per_text(compute, random_texts(40), 60, CPU)
    assert max(sizes) <= 60 and len(sizes) < 20


def test_tokens_counts_prompts_and_responses() -> None:
    texts = Texts([[1, 2], [3]], [[4, 5, 6], [7]])
    assert (len(texts), texts.tokens) == (2, 7)


def test_picked_rows_keep_their_order() -> None:
    batch = Texts([[1], [2], [3]], [[4], [5], [6, 7]]).pick([2, 0], CPU)
    assert batch.ids_RL.tolist() == [[3, 6, 7], [1, 4, 0]]
    assert batch.response_lengths_B.tolist() == [2, 1]


def test_some_of_the_rows_are_planned_by_their_own_numbers() -> None:
    (plan,) = random_texts(20).micro_batches([3, 17, 5, 11], budget=40)
    assert sorted(row for batch in plan for row in batch) == [3, 5, 11, 17]


def test_rows_of_all_ranks_are_put_in_row_order() -> None:
    assert ranks.scatter_rows([[2, 0], [], [1]], ["c", "a", "b"], 3) == ["a", "b", "c"]


def test_an_empty_batch_goes_through_a_model(
    tiny_causal: Callable[[str], PreTrainedModel],
) -> None:
    logprobs, _ = response_logprobs(tiny_causal("gpt2"), empty_batch(CPU), 1.0)
    assert logprobs.shape == (1, 1) and torch.isfinite(logprobs).all()


def test_chunks_have_one_size() -> None:
    assert list(chunks([5, 3, 1, 0], 2)) == [[5, 3], [1, 0]]
    with pytest.raises(AssertionError):
        list(chunks([1, 2, 3], 2))
