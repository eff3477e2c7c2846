"""The other side of benchmarks/ppo.py: TRL 1.12.0's PPOTrainer on what it prepared.

    PYTHONPATH=TRL_FOLDER python benchmarks/trl_ppo.py PREPARED NEW_TOKENS UPDATES ROWS

ROWS go through the models at once. Prints, as its last line, the seconds of every update but the
first.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

assert trl.__version__ == "1.12.0", trl.__version__
PROMPTS = 64


class Clock(TrainerCallback):
    """When each update ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.monotonic())


def settings(folder: Path, new_tokens: int, updates: int, rows: int) -> Any:
    """Those of `align` in TRL's words."""
    return PPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=PROMPTS // rows,
        num_mini_batches=1,
        num_ppo_epochs=4,
        total_episodes=PROMPTS * updates,
        response_length=new_tokens,
        stop_token="eos",
        temperature=1.0,
        learning_rate=3e-6,
        kl_coef=0.05,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        save_strategy="no",
        num_sample_generations=0,
        disable_tqdm=True,
    )


def main() -> None:
    folder = Path(sys.argv[1])
    new_tokens, updates, rows = map(int, sys.argv[2:])
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    chats = [json.loads(line)["messages"] for line in (folder / "prompts.jsonl").open()]
    prompts = [tokenizer.apply_chat_template(chat, return_dict=False) for chat in chats[:PROMPTS]]
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
        for _ in range(2)
    )
    reward, critic = (
        AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32)
        for _ in range(2)
    )
    clock = Clock()
    PPOTrainer(
        args=settings(folder, new_tokens, updates, rows),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:1]}),
        callbacks=[clock],
    ).train()
    print(json.dumps({"seconds": [after - before for before, after in pairwise(clock.ends)]}))


if __name__ == "__main__":
    main()
