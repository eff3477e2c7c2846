"""Processor time of PPO's training side by part: texts packed or padded, in several micro-batches.

    python benchmarks/ppo_update.py stories
    python benchmarks/ppo_update.py dense

The workloads of benchmarks/ppo.py without sampling: 64 answers, by a Llama of the sizes of
tinystories-656k with random weights (172 tokens on average with a spread of 87), or by the dense
one (64 tokens each). One pass of the update instead of four. All variants take turns in one
process; the best of the rounds counts, which other work on the machine disturbs least.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}

from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.ppo_update import Experience, update
from align.pipeline.texts import Texts, per_text
from align.policy.attention import use_attention_by_text
from align.policy.logprobs import response_logprobs, response_values
from align.policy.model import TokenScores
from align.policy.rollout import pad_rows

ANSWERS = 64
SIZES = {
    "stories": {
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    "dense": {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 6,
        "max_position_embeddings": 128,
    },
}
PARTS = ("logprobs", "reference", "values", "update")
NOTHING = Texts([], [])


def texts_of(task: str) -> Texts:
    """Random ones of the lengths that benchmarks/ppo.py has."""
    generator = np.random.default_rng(0)
    prompts = generator.integers(8, 24, ANSWERS)
    answers = np.full(ANSWERS, 64)
    if task == "stories":
        prompts = generator.integers(13, 20, ANSWERS)
        answers = generator.normal(172, 87, ANSWERS).clip(10, 400).astype(int)

    def ids(count: int) -> list[int]:
        drawn: list[int] = generator.integers(3, SIZES[task]["vocab_size"], count).tolist()
        return drawn

    return Texts([*map(ids, prompts)], [*map(ids, answers)])


def models_of(task: str, config: RunConfig) -> Any:
    """What an update needs of the models of PPO."""
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_labels": 1, **SIZES[task]}
    causal, scalar = (
        made.from_config(LlamaConfig(**sizes), dtype=torch.float32)
        for made in (AutoModelForCausalLM, AutoModelForSequenceClassification)
    )
    for model in (causal, scalar):
        use_attention_by_text(model)
    return SimpleNamespace(
        policy=Engine(causal, 1e-6, 10**6, config.train),
        critic=Engine(TokenScores(scalar), 1e-6, 10**6, config.train),
        device=torch.device("cpu"),
        packed=True,
    )


def seconds_by_part(texts: Texts, models: Any, config: RunConfig) -> list[float]:
    """One step without sampling, in seconds of processor time."""
    budget, packed = config.train.micro_batch_tokens, models.packed
    found = []

    def timed(work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        found.append(time.process_time() - began)
        return result

    def of_policy(*, with_entropy: bool) -> torch.Tensor:
        return per_text(
            lambda batch: torch.stack(
                response_logprobs(models.policy, batch, 1.0, with_entropy=with_entropy), -1
            ),
            texts,
            budget,
            models.device,
            packed=packed,
        )[..., 0]

    logprobs_BT = timed(partial(of_policy, with_entropy=True))
    timed(partial(of_policy, with_entropy=False))  # the reference is a model of the same size
    values_BT = timed(
        lambda: per_text(
            lambda batch: response_values(models.critic, batch),
            texts,
            budget,
            models.device,
            packed=packed,
        )
    )
    mask_BT = pad_rows([[1.0] * len(ids) for ids in texts.responses])
    advantages_BT = mask_BT * torch.randn(mask_BT.shape)
    experience = Experience(
        texts=texts,
        mask_BT=mask_BT,
        logprobs_BT=logprobs_BT,
        reference_BT=logprobs_BT,
        values_BT=values_BT,
        advantages_BT=advantages_BT,
        returns_BT=values_BT + advantages_BT,
        kl_coef=0.0,
    )
    timed(lambda: update(experience, models, config, 0, NOTHING))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=sorted(SIZES))
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    texts = texts_of(options.task)
    variants = [*product((False, True), options.budgets)]
    plain = {"epochs": 1, "batch_size": ANSWERS, "learning_rate": 1e-6}
    configs = {
        budget: RunConfig.model_validate(
            {"name": "x", "train": {"micro_batch_tokens": budget}, "ppo": plain}
        )
        for budget in options.budgets
    }
    models = models_of(options.task, configs[options.budgets[0]])
    best = dict.fromkeys(variants, [float("inf")] * len(PARTS))
    for _ in range(options.rounds):
        for variant in variants:
            models.packed, budget = variant
            found = seconds_by_part(texts, models, configs[budget])
            best[variant] = [*map(min, best[variant], found)]
    print(f"{options.task}, {texts.tokens} tokens".ljust(26), *(f"{one:>10}" for one in PARTS))
    for (packed, budget), seconds in best.items():
        name = f"{'packed' if packed else 'padded'}, {budget} tokens"
        print(name.ljust(26), *(f"{value:>10.2f}" for value in seconds))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
