"""What goes to a sampler and what comes back.

Shapes: B answers, T response tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FinishReason = Literal["eos", "length", "stop"]


@dataclass(frozen=True)
class SampleRequest:
    """One answer to draw."""

    prompt_ids: list[int]
    noise_key: tuple[int, ...]
    """(run seed, step, position in the prompt stream, sample index): all its randomness."""


@dataclass(frozen=True)
class Sample:
    """One drawn answer."""

    response_ids: list[int]
    """Ends with EOS, or with a stop text, where that is the reason."""
    logprobs: list[float]
    """log pi(token) at the sampling temperature, in nats, one per response token."""
    finish_reason: FinishReason
    """`length` where the answer was cut at the longest allowed length."""
    policy_version: int
    """The weights that drew it."""

    @property
    def finished(self) -> bool:
        """False where the answer was cut."""
        return self.finish_reason != "length"


def uniforms(noise_key: tuple[int, ...], count: int) -> NDArray[np.float64]:
    """One number in [0, 1) per token position, a pure function of the key.

    Philox is counter-based (Salmon et al. 2011), so no worker carries a generator's state and a
    retry draws the same answer.
    """
    digest = hashlib.blake2b(repr(noise_key).encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def cut_units(requests: Sequence[SampleRequest], rows: int) -> list[list[int]]:
    """Places of the requests that are drawn together: `rows` prompts of like length in each.

    Who draws them has no say in it, so it changes no bit.
    """
    order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def pad_rows(rows: list[list[float]]) -> Tensor:
    """Right-pad with 0 to a (B, T) tensor."""
    padded_BT = torch.zeros(len(rows), max(map(len, rows)))
    for padded_T, row in zip(padded_BT, rows, strict=True):
        padded_T[: len(row)] = torch.tensor(row)
    return padded_BT
