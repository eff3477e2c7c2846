"""Log-probabilities, values and scores against one unpadded text at a time."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from align.policy.attention import use_attention_by_text
from align.policy.logprobs import (
    TextBatch,
    response_logprobs,
    response_values,
    text_batch,
    text_scores,
)
from align.policy.model import TokenScores

TinyCausal = Callable[[str], PreTrainedModel]
TinyConfig = Callable[[str], PretrainedConfig]

FAMILIES = ["llama", "gpt2", "qwen2"]
CPU = torch.device("cpu")
# Id 0 is the padding and id 2 the EOS of the tiny models: real tokens may be either.
PROMPTS = [[5, 6, 7], [8, 0, 2, 9, 10, 11], [12], [0, 0]]
RESPONSES = [[20, 21, 22, 23, 2], [24, 2], [25, 0, 2, 26, 27, 28, 0], [2]]


def batch(*, packed: bool = False) -> TextBatch:
    return text_batch(PROMPTS, RESPONSES, CPU, packed=packed)


@torch.no_grad()
def naive(
    model: PreTrainedModel, temperature: float
) -> tuple[list[list[float]], list[list[float]]]:
    """Log-probabilities and entropies: one text, one full softmax and one position at a time."""
    logprobs, entropies = [], []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
        rows = [
            (logits[len(prompt) - 1 + t] / temperature).softmax(-1) for t in range(len(response))
        ]
        logprobs.append([math.log(row[i]) for row, i in zip(rows, response, strict=True)])
        entropies.append([float(-(row * row.log()).sum()) for row in rows])
    return logprobs, entropies


@torch.no_grad()
def agree(found: Tensor, expected: list[list[float]]) -> bool:
    """Equal on the responses, 0 behind them."""
    width = max(map(len, expected))
    padded = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in expected])
    return found.shape == padded.shape and torch.allclose(found, padded, atol=2e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_entropy_equal_a_full_softmax(
    tiny_causal: TinyCausal, family: str, temperature: float, packed: bool
) -> None:
    model = tiny_causal(family)
    logprobs, entropies = naive(model, temperature)
    given = batch(packed=packed)
    found, entropy = response_logprobs(model, given, temperature, with_entropy=True)
    assert agree(found, logprobs)
    assert agree(entropy, entropies)


def test_entropy_is_zero_unless_asked_for(tiny_causal: TinyCausal) -> None:
    _, entropy = response_logprobs(tiny_causal("llama"), batch(), 1.0)
    assert (entropy == 0).all()


@pytest.mark.parametrize("pad_id", [0, 2, 299])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_padding_of_any_length_changes_nothing(
    tiny_causal: TinyCausal, family: str, pad_id: int
) -> None:
    model, plain = tiny_causal(family), batch()
    lengths = plain.prompt_lengths_B + plain.response_lengths_B
    length = plain.ids_RL.shape[1]
    real = torch.arange(length) < lengths[:, None]
    ids_RL = pad(plain.ids_RL.where(real, pad_id), (0, 6), value=pad_id)
    wide = replace(plain, ids_RL=ids_RL, starts_B=plain.starts_B // length * (length + 6))
    for one, other in zip(
        response_logprobs(model, plain, 0.7, with_entropy=True),
        response_logprobs(model, wide, 0.7, with_entropy=True),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_reaches_the_weights_and_equals_that_of_single_texts(
    tiny_causal: TinyCausal, family: str, packed: bool
) -> None:
    model = tiny_causal(family)
    weights = [p for p in model.parameters() if p.requires_grad]
    together = response_logprobs(model, batch(packed=packed), 0.7)[0].sum()
    single = torch.zeros(())
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        single = (
            single + response_logprobs(model, text_batch([prompt], [response], CPU), 0.7)[0].sum()
        )
    for one, other in zip(
        torch.autograd.grad(together, weights), torch.autograd.grad(single, weights), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_numbers_and_gradients_are_those_of_the_plain_formula(
    temperature: float, packed: bool
) -> None:
    """Over more positions than are computed at once."""
    generator = torch.Generator().manual_seed(0)
    long = [[*range(3, 90)], [*range(3, 160)]]
    given = text_batch([[5], [6, 7]], long, CPU, packed=packed)
    logits_RLV = 3 * torch.randn(*given.ids_RL.shape, 200, generator=generator)
    plain_RLV = logits_RLV.clone().requires_grad_()
    scaled_NV = (plain_RLV / temperature).flatten(0, 1)[given.before_N]
    chosen_N1 = torch.tensor([*long[0], *long[1]])[:, None]
    plain_N = (scaled_NV.gather(1, chosen_N1) - scaled_NV.logsumexp(1, keepdim=True)).squeeze(1)
    found_RLV = logits_RLV.clone().requires_grad_()

    def model(**asked: Any) -> Any:
        return SimpleNamespace(logits=found_RLV[:, asked["logits_to_keep"]])

    logprobs_BT, _ = response_logprobs(model, given, temperature)
    mask_BT = given.mask_BT.bool()
    assert torch.allclose(logprobs_BT[mask_BT], plain_N, atol=1e-5)
    slopes_N = torch.randn(plain_N.shape, generator=generator)
    logprobs_BT[mask_BT].backward(slopes_N)
    plain_N.backward(slopes_N)
    assert found_RLV.grad is not None and plain_RLV.grad is not None
    assert torch.allclose(found_RLV.grad, plain_RLV.grad, atol=1e-6)


def test_packed_logits_are_computed_for_response_tokens_alone(tiny_causal: TinyCausal) -> None:
    model: Any = tiny_causal("llama")
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, out: seen.append(out[..., 0].numel()))
    response_logprobs(model, batch(packed=True), 1.0)
    assert seen == [sum(map(len, RESPONSES))]


class Largest(TorchDispatchMode):
    """How many tensors of at least so many elements were made, by operation."""

    def __init__(self, elements: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._elements = elements
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        large = isinstance(out, Tensor) and out.numel() >= self._elements
        if large and out.untyped_storage().data_ptr() not in {
            one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)
        }:
            self.made.append(func.__name__)
        return out


def test_nothing_as_large_as_the_logits_is_made_besides_them() -> None:
    """Not even their gradient, which takes their place."""
    given = text_batch([[5]], [[*range(300)]], CPU, packed=True)
    leaf = torch.randn(1, 300, 400, requires_grad=True)
    logits = leaf * 1

    def model(**asked: Any) -> Any:
        return SimpleNamespace(logits=logits)

    with Largest(logits.numel()) as seen:
        logprobs, _ = response_logprobs(model, given, 0.7, with_entropy=True)
        (gradient,) = torch.autograd.grad(logprobs.sum(), logits)
    assert seen.made == [] and gradient.data_ptr() == logits.data_ptr()


def position(ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """A model of token scores that shows which position was read."""
    return torch.arange(ids.shape[1]).expand(ids.shape) if positions is None else positions


@pytest.mark.parametrize("packed", [False, True])
def test_a_value_belongs_to_the_state_before_its_token(packed: bool) -> None:
    values = response_values(position, batch(packed=packed))
    expected = [
        [len(prompt) - 1.0 + t for t in range(len(response))]
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    assert agree(values, expected)


@pytest.mark.parametrize("packed", [False, True])
def test_a_score_is_read_at_the_last_real_token_whatever_its_id(packed: bool) -> None:
    scores = text_scores(position, batch(packed=packed))
    assert scores.tolist() == [
        len(prompt) + len(response) - 1 for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]


def test_the_mask_is_one_on_response_tokens() -> None:
    assert batch().mask_BT.tolist() == [
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 0, 0, 0],
    ]


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_stock_class_when_padding_has_an_id_of_its_own(
    tiny_config: TinyConfig, family: str, packed: bool
) -> None:
    config = tiny_config(family)
    config.num_labels, config.pad_token_id = 1, 299
    torch.manual_seed(0)
    stock = AutoModelForSequenceClassification.from_config(config).eval()
    texts = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[299] * (width - len(text))] for text in texts])
    expected = stock(input_ids=ids, attention_mask=(ids != 299).long()).logits[:, 0]
    use_attention_by_text(stock)
    found = text_scores(TokenScores(stock), batch(packed=packed))
    assert torch.allclose(found, expected, atol=1e-5)
