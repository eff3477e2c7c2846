"""vLLM in place of our own sampler: the same requests, the same samples, for large models on GPUs.

Every request is seeded by its noise key, yet vLLM promises no bits: a number of rows or another
version rounds otherwise. It runs inside the actor's process; only shards of a model are processes
of their own, and they end with it.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from align.data.errors import UserError
from align.policy.config import AdapterConfig
from align.policy.rollout import FinishReason, Sample, SampleRequest
from align.policy.sample import SamplingSettings
from align.policy.vllm_weights import WeightReceiver, fingerprint
from align.policy.weights import Packed, checksum
from align.policy.whole_weights import layout_of, merged_weights, used_names

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # what ends the actor must end the engine
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several workers would be bound to the same cores
    "VLLM_HOST_IP": "127.0.0.1",  # an engine stays on its node
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
BLOCK = 128
"""Tokens that vLLM's key-value cache grows by, at most."""


@dataclass(frozen=True)
class VLLMSettings:
    """What an engine must be made for."""

    rows: int
    """Answers that are written at once, at most."""
    max_length: int
    """Tokens of a prompt and its answer, at most."""
    tensor_parallel_size: int = 1
    """Processes, each with a GPU if there is any, over which every layer is sharded."""
    sleeps: bool = False
    """Free the GPU's memory between batches, for the trainer that shares it."""


class VLLMSampler:
    """One worker: an engine, and the version of its weights."""

    def __init__(
        self,
        config: PretrainedConfig,
        adapter: AdapterConfig | None,
        dtype: torch.dtype,
        threads: int,
        settings: VLLMSettings,
    ) -> None:
        shards = settings.tensor_parallel_size
        threads = max(1, threads // shards)
        torch.set_num_threads(threads)
        os.environ |= ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
        self._layout = layout_of(config, adapter)
        self._dtype = dtype
        self._base: Packed = {}
        self._is_asleep = False
        self.version = -1
        self._config = config
        self._settings = settings
        self._llm: Any = None

    def load(self, packed: Packed, version: int) -> str:
        """Take new weights: all of them first, later perhaps adapters alone.

        The digest of what came, if vLLM's fingerprint says that it holds that on all its shards.
        The first call starts vLLM: UserError if it cannot.
        """
        if self._llm is None:  # a constructor that raises is taken for a worker that dies
            self._llm = started(self._config, self._dtype, self._settings)
        self._wake()
        if packed.keys() >= self._base.keys():  # not adapters alone
            self._base = packed
        weights = dict(merged_weights(self._layout, self._base | packed, self._dtype))
        shards = self._llm.collective_rpc("take_weights", args=(weights,))
        # Tokens cached for one set of weights are wrong for the next.
        self._llm.reset_prefix_cache()
        self.version = version
        # What is whole on several shards counts once.
        held = sum(value for _, value in {pair for shard in shards for pair in shard}) % 2**64
        sent = fingerprint_of(weights, self._layout)
        if held != sent:
            return f"of fingerprint {held:016x} instead of {sent:016x}"
        return checksum(packed)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[Sample]:
        """Draw one unit of answers."""
        from vllm import SamplingParams

        self._wake()
        prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
        asked = [
            SamplingParams(
                temperature=settings.temperature,
                top_k=settings.top_k or 0,  # these three for held-out prompts alone
                top_p=settings.top_p or 1.0,
                min_tokens=settings.min_new_tokens,
                max_tokens=settings.max_new_tokens,
                stop_token_ids=[settings.eos_id],
                seed=seed_of(request.noise_key),
                logprobs=0,  # of the token drawn, and of no other
                detokenize=False,
            )
            for request in requests
        ]
        outputs = self._llm.generate(prompts, asked, use_tqdm=False)
        return [self._sample(one.outputs[0], settings.eos_id) for one in outputs]

    def sleep(self) -> None:
        """Move the weights to the CPU and drop the key-value cache, until there is work again."""
        self._llm.sleep(level=1)
        self._is_asleep = True

    def _wake(self) -> None:
        if self._is_asleep:
            self._llm.wake_up()
            self._is_asleep = False

    def _sample(self, answer: Any, eos_id: int) -> Sample:
        ids = list(answer.token_ids)
        logprobs = [
            chances[token].logprob for chances, token in zip(answer.logprobs, ids, strict=True)
        ]
        reason: FinishReason = "eos" if ids[-1] == eos_id else "length"
        return Sample(ids, logprobs, reason, self.version)


def seed_of(noise_key: tuple[int, ...]) -> int:
    """vLLM's seed of a request, a pure function of its key."""
    digest = hashlib.blake2b(repr(noise_key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # vLLM takes 63 bits


def fingerprint_of(weights: Mapping[str, Tensor], layout: nn.Module) -> int:
    """What vLLM must hold: every weight as often as the model uses it, tied ones twice."""
    prints = {name: fingerprint(weight) for name, weight in weights.items()}
    return sum(prints[name] for name in used_names(layout)) % 2**64


def key_value_heads(config: Any) -> int:
    """How many heads keep keys and values."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def key_value_bytes(config: Any, dtype: torch.dtype, tokens: int) -> int:
    """Keys and values of so many tokens in all layers."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * key_value_heads(config) * size
    return int(tokens * numbers * dtype.itemsize)


def started(config: PretrainedConfig, dtype: torch.dtype, settings: VLLMSettings) -> Any:
    """An engine whose weights are not the trainer's yet, but which has written a token.

    UserError if it cannot.
    """
    shards, heads = settings.tensor_parallel_size, key_value_heads(config)
    if heads % shards:
        raise UserError(
            f"rollout.tensor_parallel_size: {shards} does not divide the {heads} key-value heads "
            "of the model"
        )
    from vllm import LLM, SamplingParams

    blocks = settings.rows * (1 + settings.max_length // BLOCK) + 1  # one is vLLM's own
    config.architectures = [type(layout_of(config, None)).__name__]  # a new config has none
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        try:
            engine = LLM(
                model=folder,
                load_format="dummy",
                dtype=str(dtype).removeprefix("torch."),
                skip_tokenizer_init=True,
                generation_config="vllm",  # no top-k or top-p of the model's own
                logprobs_mode="processed_logprobs",  # at the sampling temperature
                max_model_len=settings.max_length,
                max_num_seqs=settings.rows,
                kv_cache_memory_bytes=key_value_bytes(config, dtype, blocks * BLOCK) // shards,
                gpu_memory_utilization=0.01,  # only a check of what is free, given the cache's size
                tensor_parallel_size=shards,
                distributed_executor_backend="mp" if shards > 1 else "uni",
                worker_extension_cls=f"{WeightReceiver.__module__}.{WeightReceiver.__name__}",
                enable_sleep_mode=settings.sleeps,
                enforce_eager=not torch.cuda.is_available(),  # on CPUs it compiles for a minute
                disable_log_stats=True,
            )
            one = SamplingParams(max_tokens=1, detokenize=False)
            engine.generate([{"prompt_token_ids": [0]}], one, use_tqdm=False)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"rollout.engine: vLLM does not start: {said}") from error
    return engine
