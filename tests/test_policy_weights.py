"""Weights as bytes and back."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from align.policy.model import cast_parameters
from align.policy.weights import Packed, checksum, checksum_of, load_packed, pack

TinyCausal = Callable[[str], PreTrainedModel]


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    cast_parameters(model, dtype)
    return model


def zeros_like(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_arrive_bit_for_bit(
    tiny_causal: TinyCausal, family: str, dtype: torch.dtype
) -> None:
    model = cast(tiny_causal(family), dtype)
    packed = pack(model.named_parameters())
    other = zeros_like(cast(tiny_causal(family), dtype))
    load_packed(other, packed)
    for (name, sent), (_, held) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(sent, held), name
    assert checksum_of(other, packed) == checksum(packed)


def test_a_scalar_and_a_transposed_parameter_arrive() -> None:
    sent = nn.ParameterDict({"scale": torch.tensor(3.0), "matrix": torch.rand(2, 3).t()})
    held = nn.ParameterDict({"scale": torch.tensor(0.0), "matrix": torch.zeros(3, 2)})
    load_packed(held, pack(sent.named_parameters()))
    assert torch.equal(held["scale"], sent["scale"])
    assert torch.equal(held["matrix"], sent["matrix"])


def test_packed_weights_are_a_copy(tiny_causal: TinyCausal) -> None:
    model = tiny_causal("llama")
    packed = pack(model.named_parameters())
    before = checksum(packed)
    zeros_like(model)
    assert checksum(packed) == before != checksum_of(model, packed)


def test_one_flipped_bit_changes_the_checksum(tiny_causal: TinyCausal) -> None:
    packed = pack(tiny_causal("llama").named_parameters())
    before = checksum(packed)
    packed["model.norm.weight"][5] ^= 1
    assert checksum(packed) != before


def test_the_checksum_knows_names_and_not_their_order() -> None:
    one, two = np.zeros(4, np.uint8), np.ones(4, np.uint8)
    packed: Packed = {"a": one, "b": two}
    assert checksum(packed) == checksum({"b": two, "a": one})
    assert checksum(packed) != checksum({"b": one, "a": two})


def test_a_part_of_the_weights_leaves_the_others_alone(tiny_causal: TinyCausal) -> None:
    model = tiny_causal("llama")
    rest = checksum_of(model, [n for n, _ in model.named_parameters() if n != "model.norm.weight"])
    load_packed(model, {"model.norm.weight": np.zeros(32 * 4, np.uint8)})
    parameters = dict(model.named_parameters())
    assert (parameters.pop("model.norm.weight") == 0).all()
    assert checksum_of(model, parameters) == rest


def test_an_unknown_name_or_a_wrong_size_is_an_error(tiny_causal: TinyCausal) -> None:
    model = tiny_causal("llama")
    with pytest.raises(KeyError):
        load_packed(model, {"no.such.weight": np.zeros(4, np.uint8)})
    with pytest.raises(RuntimeError):
        load_packed(model, {"model.norm.weight": np.zeros(8, np.uint8)})
