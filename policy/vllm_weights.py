"""Inside vLLM's own workers: weights go in, and what arrived is read back.

vLLM fuses, shards and pads weights in a way of its own, and on CPUs it hides them in the layout of
its kernels. Bytes cannot be compared then, so a fingerprint is, which is blind to layout.

Shapes: N numbers in any order, I inputs of a layer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

INTEGERS = {2: torch.int16, 4: torch.int32}
"""Bytes of a number -> integers of that size."""
MIX = -7046029254386353131
"""2**64 over the golden ratio, odd and as a signed integer (Knuth, TAOCP 3, section 6.4)."""
NUMBERS_AT_ONCE = 2**24


def fingerprint(tensor: Tensor) -> int:
    """The sum of a 64-bit hash of every number, modulo 2**64: order, shape and zeros do not count.

    The weights of a fused layer have the sum of the fingerprints of its parts, the shards of a
    weight that of the whole.
    """
    total = 0
    for numbers_N in tensor.flatten().split(NUMBERS_AT_ONCE):
        # -0 becomes 0: reading back packed weights loses that sign.
        bits_N = (numbers_N + 0).view(INTEGERS[tensor.element_size()]).long() * MIX
        total += int(((bits_N ^ (bits_N >> 31)) * MIX).sum())
    return total % 2**64


class WeightReceiver:
    """What vLLM adds to each of its workers, of which every shard of a model has one."""

    model_runner: Any

    def take_weights(self, weights: Mapping[str, Tensor]) -> list[tuple[str, int]]:
        """Load whole weights by their Hugging Face names; what this shard then holds, as names of
        vLLM's and fingerprints."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.model_runner.reload_weights(weights_iterator=iter(weights.items()))
        model: nn.Module = self.model_runner.get_model()
        layer: Any
        for layer in model.modules():
            # A tied output layer is not loaded and would go on with what it packed before.
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)
        dtype = self.model_runner.model_config.dtype
        return [(name, fingerprint(weight.to(dtype))) for name, weight in held_weights(model)]


@torch.no_grad()
def held_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that vLLM computes with, tied ones as often as they are used."""
    layer: Any
    for place, layer in model.named_modules(remove_duplicate=False):
        for name, parameter in layer.named_parameters(recurse=False):
            is_packed = name == "weight" and "cpu_linear" in vars(layer)
            yield f"{place}.{name}", _unpacked(layer) if is_packed else parameter


def _unpacked(layer: Any) -> Tensor:
    """The weights inside a CPU kernel: x W' is W' for the identity x, without any rounding."""
    weight: Tensor = layer.weight  # emptied, but in an output layer
    inputs = weight.shape[1] if weight.numel() else layer.input_size_per_partition
    identity_II = torch.eye(inputs, dtype=weight.dtype)
    unpacked: Tensor = layer.quant_method.apply(layer, identity_II)
    return unpacked
