"""Whole weights by their Hugging Face names, made of what travels from the trainer.

Another engine than ours knows neither adapters nor their names.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from align.policy.adapters import add_adapter
from align.policy.config import AdapterConfig
from align.policy.weights import Packed


def layout_of(config: PretrainedConfig, adapter: AdapterConfig | None) -> nn.Module:
    """The trainer's model without its numbers: names, shapes, and what is tied or adapted."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        return add_adapter(model, adapter, 0, check=False) if adapter else model


def merged_weights(
    layout: nn.Module, packed: Packed, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Whole weights by their Hugging Face names, with adapters merged into them.

    W = W0 + (alpha / r) B A (Hu et al. 2021), which leaves rank and layers free; but in bf16 W is
    rounded, which the trainer's sum is not. `layout` is the model that `packed` comes from.
    """

    def unpack(name: str) -> Tensor:
        flat = torch.from_numpy(packed[name].copy()).view(dtype)
        return flat.view(layout.get_parameter(name).shape)

    for name in packed:
        if ".lora_" in name:
            continue
        weight = unpack(name)
        if name.endswith(".base_layer.weight"):
            place = name.removesuffix(".base_layer.weight")
            layer: Any = layout.get_submodule(place)
            low_B, low_A = (unpack(f"{place}.lora_{x}.default.weight").float() for x in "BA")
            update = layer.scaling["default"] * (low_B @ low_A)
            weight = (weight.float() + (update.T if layer.fan_in_fan_out else update)).to(dtype)
        yield plain_name(name), weight


def plain_name(name: str) -> str:
    """A parameter's name in the model before it got adapters."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def used_names(layout: nn.Module) -> list[str]:
    """The name of every weight, as often as the model uses it: tied ones several times."""
    names = {parameter: plain_name(name) for name, parameter in layout.named_parameters()}
    return [
        names[parameter]
        for name, parameter in layout.named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    ]
