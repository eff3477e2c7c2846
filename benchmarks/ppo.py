"""PPO samples per second against TRL's last PPOTrainer: same model, prompts, lengths and settings.

    pip install --no-deps --target TRL_FOLDER trl==1.12.0
    python benchmarks/ppo.py stories --trl TRL_FOLDER --stories FILE --model FOLDER
    python benchmarks/ppo.py dense --trl TRL_FOLDER

stories  tinystories-656k goes on from the first 12 words of 64 stories, in up to 400 new tokens.
         FILE holds stories split by <|endoftext|>.
dense    A Llama of 4.6 million parameters with random weights, 64 random prompts of 8 to 23 tokens
         and 64 new tokens, so that there is hardly any padding to save.

Both sides: fp32, a critic of its own, all 64 answers in one batch, four epochs of one minibatch.
Each runs as a process of its own and they take turns. An update's time is from its end to the end
of the one before, so the first of a process is warm-up; medians count. TRL gets the best of the
micro-batch sizes given, no gradient checkpointing and no reports.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from align.data.messages import Message, cluster_id_of
from align.data.splits import split_of

PROMPTS = 64
HELD_OUT = 0.1
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
CLI = "from align.pipeline.cli import main; main()"
NEW_TOKENS = {"stories": 400, "dense": 64}


def story_prompts(stories: Path) -> list[str]:
    """The first 12 words of each story."""
    texts = [text.split() for text in stories.read_text("utf-8").split("<|endoftext|>")]
    return [" ".join(words[:12]) for words in texts if len(words) > 12]


def random_prompts(vocabulary: int) -> list[str]:
    """Of 8 to 23 words."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(8, 24, 2 * PROMPTS)
    return [" ".join(f"w{i}" for i in generator.integers(3, vocabulary, n)) for n in lengths]


def dense_model(folder: Path) -> None:
    """4.6 million parameters that are nearly all in layers, with a tokenizer of 512 words."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 512)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def chosen(prompts: list[str]) -> list[list[Message]]:
    """64 prompts that `align` trains on, and one that it holds out."""
    chats: list[list[Message]] = [[{"role": "user", "content": text}] for text in prompts]
    split = [split_of(cluster_id_of(chat), HELD_OUT) for chat in chats]
    learnt = [chat for chat, where in zip(chats, split, strict=True) if where == "train"]
    held_out = [chat for chat, where in zip(chats, split, strict=True) if where == "test"]
    assert len(learnt) >= PROMPTS and held_out
    return learnt[:PROMPTS] + held_out[:1]


def prepare(task: str, stories: Path, model: Path, folder: Path) -> None:
    """Policy, reward model and prompts that both sides read."""
    policy = folder / "policy"
    if task == "dense":
        dense_model(policy)
        prompts = random_prompts(512)
    else:
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).save_pretrained(policy)
        AutoTokenizer.from_pretrained(model).save_pretrained(policy)
        prompts = story_prompts(stories)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    reward = AutoModelForSequenceClassification.from_pretrained(
        policy, num_labels=1, dtype=torch.float32
    )
    reward.config.pad_token_id = 0
    reward.save_pretrained(folder / "reward")
    for place in ("policy", "reward"):
        tokenizer.save_pretrained(folder / place)
    lines = [json.dumps({"messages": chat}) for chat in chosen(prompts)]
    (folder / "prompts.jsonl").write_text("\n".join(lines), "utf-8")


def settings(task: str, folder: Path, updates: int) -> dict[str, object]:
    """The config of `align`."""
    return {
        "name": "benchmark",
        "model": {"path": str(folder / "policy")},
        "data": {
            "prompts": [{"format": "messages", "path": str(folder / "prompts.jsonl")}],
            "max_prompt_length": 64,
            "max_length": 64 + NEW_TOKENS[task],
            "held_out": HELD_OUT,
        },
        "train": {"micro_batch_tokens": 4096, "schedule": "constant"},
        "rollout": {"workers": 2, "max_new_tokens": NEW_TOKENS[task], "rows_per_unit": 32},
        "ppo": {
            "policy": str(folder / "policy"),
            "reward_model": str(folder / "reward"),
            "steps": updates,
            "batch_size": PROMPTS,
            "epochs": 4,
            "learning_rate": 3e-6,
            "critic_learning_rate": 3e-6,
            "missing_eos_penalty": 0,
        },
    }


def align_updates(task: str, folder: Path, run: Path, updates: int) -> list[float]:
    """Seconds of every update but the first."""
    config, metrics = run.with_suffix(".yaml"), run / "ppo" / "metrics.jsonl"
    config.write_text(yaml.safe_dump(settings(task, folder, updates)), "utf-8")
    command = ["run", "--stage", "ppo", "--config", str(config), "--run-dir", str(run)]
    ends: list[float] = []
    quiet = subprocess.DEVNULL
    with subprocess.Popen([sys.executable, "-c", CLI, *command], stdout=quiet) as process:
        while process.poll() is None:
            done = metrics.read_text("utf-8").count("\n") if metrics.exists() else 0
            ends += [time.monotonic()] * (done - len(ends))
            time.sleep(0.02)
    assert process.returncode == 0 and len(ends) == updates, (process.returncode, ends)
    return [after - before for before, after in pairwise(ends)]


def trl_updates(task: str, folder: Path, trl: Path, updates: int, rows: int) -> list[float]:
    """Likewise, with so many rows in a micro-batch."""
    program = Path(__file__).parent / "trl_ppo.py"
    arguments = [str(one) for one in (folder, NEW_TOKENS[task], updates, rows)]
    output = subprocess.run(
        [sys.executable, str(program), *arguments],
        env=os.environ | {"PYTHONPATH": str(trl.resolve())},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    seconds: list[float] = json.loads(output.splitlines()[-1])["seconds"]
    return seconds


def parts_of(runs: list[Path]) -> dict[str, float]:
    """Median seconds of the parts of an update of `align`, the longest first."""
    seconds = defaultdict(list)
    for run in runs:
        for line in (run / "ppo" / "metrics.jsonl").read_text("utf-8").splitlines()[1:]:
            for name, value in json.loads(line).items():
                if name.startswith("time/"):
                    seconds[name.removeprefix("time/")].append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def show(name: str, seconds: list[float], ours: list[float]) -> None:
    """One line of the table."""
    rate, ratio = (PROMPTS / statistics.median(seconds) for seconds in (seconds, ours))
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    print(f"{name:<22}{rate:>10.2f}{spread:>22}{ratio / rate:>12.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=sorted(NEW_TOKENS))
    parser.add_argument("--trl", type=Path, required=True, help="where TRL 1.12.0 was put")
    parser.add_argument("--stories", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--updates", type=int, default=3, help="of one process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[16, 64])
    options = parser.parse_args()
    if options.task == "stories" and not (options.stories and options.model):
        parser.error("stories needs --stories and --model")
    ours: list[float] = []
    theirs: dict[int, list[float]] = {rows: [] for rows in options.micro_batches}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(options.task, options.stories, options.model, folder)
        runs = [folder / f"run-{number}" for number in range(options.rounds)]
        for run in runs:
            ours += align_updates(options.task, folder, run, options.updates)
            for rows, seconds in theirs.items():
                seconds += trl_updates(options.task, folder, options.trl, options.updates, rows)
        parts = parts_of(runs)
    print(f"{options.task:<22}{'samples/s':>10}{'seconds an update':>22}{'align is':>12}")
    show("align", ours, ours)
    for rows, seconds in theirs.items():
        show(f"TRL, {rows} rows at once", seconds, ours)
    print("\nseconds of an update of align, by part")
    for part, value in parts.items():
        print(f"{part:<22}{value:>10.2f}")


if __name__ == "__main__":
    main()
