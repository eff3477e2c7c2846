"""Weights on their way from the trainer to the samplers, with proof of arrival."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Raw bytes: Ray shares numpy arrays between the processes of a node without copying, and numpy
# has no bfloat16.
Packed = dict[str, NDArray[np.uint8]]


def pack(named_tensors: Iterable[tuple[str, Tensor]]) -> Packed:
    """Bytes by parameter name."""
    return {
        name: tensor.detach().cpu().flatten().view(torch.uint8).numpy().copy()
        for name, tensor in named_tensors
    }


def load_packed(model: nn.Module, packed: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write the bytes into the parameters they name."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, array in packed.items():
            parameter = parameters[name]
            tensor = torch.from_numpy(array.copy()).view(parameter.dtype)
            parameter.copy_(tensor.view(parameter.shape))


def checksum(packed: Mapping[str, NDArray[np.uint8]]) -> str:
    """A digest of names and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(packed):
        digest.update(name.encode())
        digest.update(packed[name].tobytes())
    return digest.hexdigest()


def checksum_of(model: nn.Module, names: Iterable[str]) -> str:
    """The digest of what a model holds under these names."""
    parameters = dict(model.named_parameters())
    return checksum(pack((name, parameters[name]) for name in names))
