"""Reward training against stock trl RewardTrainer: the same pairs, the same model, the same run.

    python benchmarks/reward_model.py

Rankings of nine answers, and single pairs, with the lengths of PandaLM's texts in the tokens of the
embedded model (log-normal: prompts of 79 in the median, log-deviation 0.81; answers 56 and 1.36).
Every optimiser step of both sides sees the same pairs in the same order, so their losses must
agree. Each side runs in a process of its own, one after the other. Comparisons per second leave out
the first step, also those per second of processor time, which other work on the machine disturbs
less; memory is the peak of the process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import combinations
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedModel

VOCABULARY, PAD = 2048, 0
RATE, CLIP = 1e-3, 1.0
LONGEST = 512  # tokens of a text
CASES = {"K = 9": (9, 2), "K = 2": (2, 32)}
"""Name -> answers of a prompt, prompts of an optimiser step."""
TARGETS = {"K = 9": 5.0, "K = 2": 1.3}

Prompt = list[list[int]]
"""The texts of one prompt, best first: the prompt's tokens and an answer's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=("ours", "stock"), help="run one side, in this process")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of each side")
    parser.add_argument("--stock-batch", type=int, default=8, help="pairs at once, stock's default")
    parser.add_argument("--tokens", type=int, default=4096, help="our train.micro_batch_tokens")
    arguments = parser.parse_args()
    if arguments.side:
        side = {"ours": ours, "stock": stock}[arguments.side]
        print(json.dumps(side(arguments.case, arguments)))
        return
    print(f"{'':>8} {'side':>6} {'pairs/s':>9} {'a CPU s':>9} {'peak MB':>8} {'last loss':>10}")
    for case in CASES:
        results = {side: in_a_process(side, case, arguments) for side in ("stock", "ours")}
        for side, found in results.items():
            last = found["losses"][-1]
            print(
                f"{case:>8} {side:>6} {found['rate']:9.1f} {found['cpu_rate']:9.1f} "
                f"{found['peak']:8.0f} {last:10.6f}"
            )
        stock_side, our_side = results["stock"], results["ours"]
        apart = np.abs(np.subtract(our_side["losses"], stock_side["losses"]))
        print(
            f"{case:>8}: {our_side['rate'] / stock_side['rate']:.2f} times stock (target "
            f"{TARGETS[case]}), by CPU time {our_side['cpu_rate'] / stock_side['cpu_rate']:.2f}; "
            f"peak memory {our_side['peak'] / stock_side['peak']:.2f} of its, "
            f"losses differ by {apart[0]:.1e} at the first step and {apart.max():.1e} at most"
        )


def in_a_process(side: str, case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--case", case]
    for name in ("steps", "stock_batch", "tokens"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def batches_of(case: str, steps: int) -> list[list[Prompt]]:
    """The prompts of every optimiser step."""
    answers, prompts = CASES[case]
    rng = np.random.default_rng(0)
    return [[_prompt(rng, answers) for _ in range(prompts)] for _ in range(steps)]


def _prompt(rng: np.random.Generator, answers: int) -> Prompt:
    prompt = _tokens(rng, 79, 0.81, LONGEST // 2)
    return [[*prompt, *_tokens(rng, 56, 1.36, LONGEST // 2)] for _ in range(answers)]


def _tokens(rng: np.random.Generator, median: float, deviation: float, most: int) -> list[int]:
    length = int(np.clip(median * np.exp(deviation * rng.normal()), 1, most))
    return [int(token) for token in rng.integers(3, VOCABULARY, length)]


def model() -> PreTrainedModel:
    """A Llama of 1.3 million parameters, the same for both sides."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        pad_token_id=PAD,
        num_labels=1,
        use_cache=False,
    )
    made: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return made


def clocks() -> tuple[float, float]:
    """Seconds of the wall and of the processor."""
    return time.perf_counter(), time.process_time()


def result(began: tuple[float, float], pairs: int) -> dict[str, Any]:
    """`began` is when the second step did; `pairs` are those of all steps but the first."""
    wall, cpu = (now - then for now, then in zip(clocks(), began, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": pairs / wall, "cpu_rate": pairs / cpu, "peak": peak}


def ours(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch.distributed as dist

    from align.pipeline.config import RunConfig
    from align.pipeline.engine import Engine
    from align.pipeline.groups import Group, Pair
    from align.pipeline.rm_update import train_on
    from align.pipeline.texts import Texts
    from align.policy.model import TokenScores

    def group(texts: Prompt) -> Group:
        pairs = list(combinations(range(len(texts)), 2))
        row = {"pair_id": "of the benchmark"}
        return Group(
            Texts(texts, [[] for _ in texts]),
            [Pair(one, other, 1.0, 1.0, 0.0, 1 / len(pairs), row) for one, other in pairs],
            [],
        )

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    config = RunConfig.model_validate(
        {
            "name": "benchmark",
            "rm": {"centering_coef": 0},
            "train": {
                "micro_batch_tokens": arguments.tokens,
                "schedule": "constant",
                "max_grad_norm": CLIP,
            },
        }
    )
    engine = Engine(TokenScores(model()), RATE, 1, config.train)
    batches = [[group(texts) for texts in batch] for batch in batches_of(case, arguments.steps)]
    losses, began = [], clocks()
    for step, groups in enumerate(batches):
        if step == 1:
            began = clocks()
        losses.append((train_on(groups, engine, config) | engine.step(step))["loss"])
    pairs = sum(len(one.pairs) for groups in batches[1:] for one in groups)
    found = result(began, pairs) | {"losses": losses}
    dist.destroy_process_group()
    return found


def stock(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import RewardConfig, RewardTrainer

    from align.pipeline.engine import ADAM_EPSILON
    from align.policy.config import ModelConfig
    from align.policy.model import load_tokenizer

    began: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            began.append(clocks())

    losses: list[float] = []

    class InOrder(RewardTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *given: Any, **named: Any) -> Any:
            loss = super().compute_loss(*given, **named)
            losses.append(float(loss))  # what Trainer logs is rounded
            return loss

    batches = batches_of(case, arguments.steps)
    rows = [
        {"chosen_ids": better, "rejected_ids": worse}
        for batch in batches
        for texts in batch
        for better, worse in combinations(texts, 2)
    ]
    pairs = len(rows) // len(batches)
    settings = RewardConfig(
        output_dir=os.path.join(os.environ.get("TMPDIR", "/tmp"), "stock-reward-trainer"),
        per_device_train_batch_size=arguments.stock_batch,
        gradient_accumulation_steps=pairs // arguments.stock_batch,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_epsilon=ADAM_EPSILON,
        max_grad_norm=CLIP,
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = InOrder(
        model=model(),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer("embedded", ModelConfig()),
        callbacks=[Clock()],
    )
    trainer.model.config.pad_token_id = PAD
    trainer.data_collator.pad_token_id = PAD
    trainer.train()
    found = result(began[1], pairs * (len(batches) - 1))
    return found | {"losses": np.reshape(losses, (len(batches), -1)).mean(axis=1).tolist()}


if __name__ == "__main__":
    main()
