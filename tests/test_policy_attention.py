"""Texts in one row come out as they do alone, in every family whose attention can be chosen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    MistralConfig,
    PreTrainedModel,
)

from align.policy.attention import BY_TEXT, reads_packed, text_lengths, use_attention_by_text
from align.policy.config import ModelConfig
from align.policy.model import load_causal_lm

Tiny = Callable[[str], PreTrainedModel]
FAMILIES = ["llama", "gpt2", "qwen2"]
TEXTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17, 18, 19]]


def packed(model: Any, **options: Any) -> Tensor:
    """Logits of all texts in one row."""
    ids = torch.tensor([[token for text in TEXTS for token in text]])
    positions = torch.tensor([[place for text in TEXTS for place in range(len(text))]])
    options = {"use_cache": False, **options}
    logits: Tensor = model(input_ids=ids, position_ids=positions, **options).logits[0]
    return logits


def alone(model: Any) -> Tensor:
    return torch.cat([model(input_ids=torch.tensor([text])).logits[0] for text in TEXTS])


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_texts_have_the_logits_and_the_gradient_that_they_have_alone(
    tiny_causal: Tiny, family: str
) -> None:
    model: Any = tiny_causal(family)
    assert model.config._attn_implementation == BY_TEXT and reads_packed(model)
    assert torch.allclose(packed(model), alone(model), atol=1e-5)
    weights = [p for p in model.parameters() if p.requires_grad]
    together = torch.autograd.grad(packed(model).square().sum(), weights)
    one_by_one = torch.autograd.grad(alone(model).square().sum(), weights)
    for one, other in zip(together, one_by_one, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_attention_never_looks_past_a_text(
    tiny_causal: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sees one text at a time and no mask, so a row costs the sum of its texts."""
    kernel, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watched(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        assert options["attn_mask"] is None and options["is_causal"] == (query.shape[2] > 1)
        seen.append((query.shape[2], key.shape[2]))
        return kernel(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    packed(tiny_causal("llama"))
    assert seen == [(len(text), len(text)) for text in TEXTS] * 2


def test_the_cached_path_and_left_padding_are_those_of_sdpa(tiny_causal: Tiny) -> None:
    by_text: Any = tiny_causal("llama")
    plain: Any = tiny_causal("llama")
    plain.set_attn_implementation("sdpa")
    ids, mask = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]), torch.ones(2, 4, dtype=torch.long)
    mask[0, :2] = 0
    for rows in (slice(0, 2), slice(0, 1)):
        given = {"attention_mask": mask[rows], "use_cache": True}
        first, second = (model(input_ids=ids[rows], **given) for model in (by_text, plain))
        assert torch.equal(first.logits, second.logits)
        longer = torch.cat([mask[rows], mask.new_ones(len(mask[rows]), 1)], dim=1)
        next_ids = ids[rows, -1:]
        one, other = (
            model(input_ids=next_ids, attention_mask=longer, past_key_values=out.past_key_values)
            for model, out in ((by_text, first), (plain, second))
        )
        assert torch.equal(one.logits, other.logits)


def test_an_architecture_with_an_attention_of_its_own_is_not_packed() -> None:
    """GPT-Neo would keep packed texts apart, but by a mask over the whole row."""
    kinds = [[["global", "local"], 1]]
    config = GPTNeoConfig(hidden_size=32, num_layers=2, num_heads=4, attention_types=kinds)
    model = AutoModelForCausalLM.from_config(config).eval()
    use_attention_by_text(model)
    assert model.config._attn_implementation == "eager" and not reads_packed(model)


def test_a_model_whose_packed_texts_see_each_other_is_found_out(tiny_causal: Tiny) -> None:
    model: Any = tiny_causal("gpt2")
    inner = model.transformer.forward

    def without_positions(position_ids: Tensor | None = None, **given: Any) -> Any:
        return inner(**given)

    model.transformer.forward = without_positions
    assert not reads_packed(model)


def test_a_sliding_window_holds_within_packed_texts() -> None:
    """It needs the dense mask; a window of 3 over texts of up to 7 tokens."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=3,
        initializer_range=0.2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    expected = alone(model)
    use_attention_by_text(model)
    assert torch.allclose(packed(model), expected, atol=1e-5)


def test_eager_attention_is_left_alone(tmp_path: Any, tiny_causal: Tiny) -> None:
    tiny_causal("llama").save_pretrained(tmp_path)
    eager = load_causal_lm(tmp_path, ModelConfig(attention="eager"))
    assert eager.config._attn_implementation == "eager" and not reads_packed(eager)
    ours = load_causal_lm(tmp_path, ModelConfig())
    assert ours.config._attn_implementation == BY_TEXT
    ours.save_pretrained(tmp_path / "again")
    assert BY_TEXT not in (tmp_path / "again" / "config.json").read_text()


def test_a_text_ends_where_positions_start_over() -> None:
    positions = [place for text in TEXTS for place in range(len(text))]
    assert text_lengths(torch.tensor([positions])) == [len(text) for text in TEXTS]
    assert text_lengths(torch.tensor([[57]])) == [1]
