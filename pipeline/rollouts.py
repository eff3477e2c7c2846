"""Answers for a stage that may have several ranks: rank 0 holds the workers, all get the answers.

Shapes: B answers, T response tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from align.pipeline import ranks
from align.pipeline.answers import EVALUATION_STEP, evaluation_settings, sampling_settings
from align.pipeline.config import RunConfig
from align.pipeline.launch import Shares
from align.pipeline.placement import placement
from align.pipeline.ppo_guards import check_agreement
from align.pipeline.ppo_models import Models
from align.pipeline.prompts import EncodedPrompt
from align.policy.rollout import Sample, SampleRequest, pad_rows
from align.policy.sample import SamplingSettings
from align.policy.vllm_engine import VLLMSettings
from align.policy.weights import pack
from align.policy.workers import RolloutWorkers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Rollouts:
    """Sampling with the policy's current weights."""

    def __init__(self, workers: RolloutWorkers | None, models: Models, config: RunConfig) -> None:
        self._workers = workers
        self._models = models
        self._config = config

    def sync(self, version: int) -> None:
        """Give the workers the policy's weights: all of them first, later those that train."""
        weights = self._models.policy_weights(trained_only=version > 0)
        if self._workers:
            self._workers.sync(pack(weights), version)
        else:
            for _ in weights:  # gathering a sharded weight takes every rank
                continue

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """One answer per request."""
        return self._drawn(requests, sampling_settings(self._config, self._models.tokenizer))

    def _drawn(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[Sample]:
        rows = self._config.rollout.rows_per_unit

        def on_the_workers() -> list[Sample]:
            assert self._workers is not None  # the main rank has them
            return self._workers.sample(requests, settings, rows)

        return ranks.on_main(on_the_workers)

    def answer(self, prompts: Sequence[EncodedPrompt]) -> list[Sample]:
        """Answers to held-out prompts, with the same noise every time."""
        seed = self._config.seed
        requests = [
            SampleRequest(prompt.ids, (seed, EVALUATION_STEP, position, 0))
            for position, prompt in enumerate(prompts)
        ]
        return self._drawn(requests, evaluation_settings(self._config, self._models.tokenizer))

    def check(self, samples: Sequence[Sample], logprobs_BT: Tensor) -> None:
        """Stop if the trainer says otherwise than the workers of the tokens that they drew."""
        sampled_BT = pad_rows([sample.logprobs for sample in samples])
        check_agreement(float((sampled_BT - logprobs_BT).abs().max()), self._config)


@contextmanager
def rollouts(config: RunConfig, models: Models, shares: Shares) -> Iterator[Rollouts]:
    """Start the workers on the main rank; end them with the block."""
    opened: list[RolloutWorkers] = []

    def open_them() -> None:
        opened.append(
            RolloutWorkers(
                config.rollout.workers,
                shares.worker_cpus,
                shares.worker_threads,
                models.policy_config,
                config.model.adapter,
                DTYPES[config.train.precision],
                shares.worker_gpus,
                models.tokenizer,
                60 * config.rollout.unit_minutes,
                _vllm(config, shares),
            )
        )

    ranks.on_main(open_them)
    try:
        yield Rollouts(opened[0] if opened else None, models, config)
    finally:
        for workers in opened:
            workers.close()


def _vllm(config: RunConfig, shares: Shares) -> VLLMSettings | None:
    """What vLLM is made for, if it is the engine."""
    rollout = config.rollout
    if rollout.engine == "own":
        return None
    return VLLMSettings(
        rollout.rows_per_unit,
        config.data.max_prompt_length + rollout.max_new_tokens,
        rollout.tensor_parallel_size,
        sleeps=shares.worker_gpus > 0 and placement(config).worker_gpus == 0,
    )
