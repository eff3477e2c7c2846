"""One rollout worker: a model, the version of its weights, and a loop that draws answers."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.policy.adapters import add_adapter
from align.policy.config import AdapterConfig
from align.policy.model import cast_parameters
from align.policy.rollout import Sample, SampleRequest
from align.policy.sample import SamplingSettings, sample
from align.policy.weights import Packed, checksum_of, load_packed


class Sampler:
    """What runs inside a Ray actor; it knows nothing of Ray."""

    def __init__(
        self,
        config: PretrainedConfig,
        adapter: AdapterConfig | None,
        dtype: torch.dtype,
        threads: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        # The same adapters as the trainer's, so that adapters alone need to travel.
        self.model: Any = add_adapter(model, adapter, 0, check=False) if adapter else model
        cast_parameters(self.model, dtype)  # peft makes adapters in fp32
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.version = -1
        self._tokenizer = tokenizer

    def load(self, packed: Packed, version: int) -> str:
        """Take new weights; return the digest of what the model holds afterwards."""
        load_packed(self.model, packed)
        self.version = version
        return checksum_of(self.model, packed)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[Sample]:
        """Draw one unit of answers."""
        return sample(self.model, requests, settings, self.version, self._tokenizer)
