"""What a checkpoint costs: saving by part, as a share of five minutes of work, and going on.

Training waits for the snapshot, and shares its cores with the thread that writes it: `lost` is
what both add to the steps of the same model that go on meanwhile.

    python benchmarks/checkpoints.py                      # a model of 0.8 M, one of 100 M
    python benchmarks/checkpoints.py --run-dir runs/demo  # also what a stage loads to go on

A save holds policy and critic with their optimisers, as in PPO. The last table needs a finished
run of the demo, and counts what is ours: no imports, no start of Ray.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging as transformers_logging

from align.pipeline import saving
from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.feedback import collect
from align.pipeline.groups import encode_groups
from align.pipeline.loading import load_config
from align.pipeline.ppo_models import Models
from align.pipeline.prompts import read_encoded_prompts
from align.pipeline.run_directory import RunDirectory
from align.pipeline.sft_data import read_splits
from align.policy.config import ModelConfig
from align.policy.model import load_causal_lm, load_tokenizer

INTERVAL = 300.0  # seconds of work between two checkpoints, the default of train.save_minutes


def main() -> None:
    transformers_logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, help="a finished run of configs/demo.yaml")
    run_dir = parser.parse_args().run_dir
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    print(f"{'model':>8} {'MB':>7} {'snapshot s':>10} {'thread s':>8} {'hash s':>6} ", end="")
    print(f"{'lost s':>7} {'of 5 min':>9} {'verify s':>8} {'restore s':>8}")
    config = RunConfig.model_validate({"name": "bench"})
    save_and_restore("demo", lambda: load_causal_lm("embedded", ModelConfig()), config)
    save_and_restore("100 M", hundred_million, config)
    if run_dir is not None:
        going_on(RunDirectory(run_dir.absolute()))
    dist.destroy_process_group()


def hundred_million() -> Any:
    """A Llama of about 100 million parameters with random weights."""
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            hidden_size=768, intermediate_size=2048, num_hidden_layers=12, vocab_size=16_000
        )
    )


def save_and_restore(name: str, make: Callable[[], Any], config: RunConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        engines = stepped_engines(make, config)
        checkpoints = Checkpoints(directory, "ppo", config, "data", steps=2)
        parts: dict[str, float] = {}
        with timed_calls(parts, saving, "stored_file"):
            with timed(parts, "snapshot"):
                checkpoints._save(1, engines, {}, {})
            with timed(parts, "thread"):
                checkpoints.finish()
        size = sum(file.stat().st_size for file in directory.path.rglob("*.safetensors")) / 1e6
        with timed(parts, "verify"):
            again = Checkpoints(directory, "ppo", config, "data", steps=2)
        with timed(parts, "restore"):
            again.restore(engines)
        lost = seconds_lost(make(), checkpoints, engines)
    print(
        f"{name:>8} {size:7.0f} {parts['snapshot']:10.2f} {parts['thread']:8.2f} "
        f"{parts['stored_file']:6.2f} {lost:7.2f} {lost / INTERVAL:9.2%} "
        f"{parts['verify']:8.2f} {parts['restore']:8.2f}"
    )


def seconds_lost(model: Any, checkpoints: Checkpoints, engines: dict[str, Any]) -> float:
    """What a save adds to the steps during which it goes on: snapshot, and the cores it takes."""
    batch = torch.ones(4, 64, dtype=torch.long)

    def steps(count: int | None) -> int:
        """So many steps, or until the save is done."""
        done = 0
        while done != count:
            model(input_ids=batch).logits.mean().backward()
            done += 1
            if count is None and checkpoints._saves._under_way.done():
                break
        return done

    steps(3)
    began = time.perf_counter()
    checkpoints._save(2, engines, {}, {})
    count = steps(None)
    with_save = time.perf_counter() - began
    checkpoints.finish()
    began = time.perf_counter()
    steps(count)
    return with_save - (time.perf_counter() - began)


@contextmanager
def timed(parts: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    parts[name] = time.perf_counter() - began


def stepped_engines(make: Callable[[], Any], config: RunConfig) -> dict[str, Any]:
    """Two engines that have taken a step, so that their optimisers have a state."""
    engines = {}
    for name in ("policy", "critic"):
        engine = Engine(make(), 1e-5, 10, config.train)
        engine.backward(engine(input_ids=torch.ones(1, 8, dtype=torch.long)).logits.mean())
        engine.step(0)
        engines[name] = engine.deepspeed
    return engines


@contextmanager
def timed_calls(parts: dict[str, float], module: Any, name: str) -> Iterator[None]:
    """Add up the seconds of all calls of one function of a module."""
    function = getattr(module, name)
    parts[name] = 0.0

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            parts[name] += time.perf_counter() - began

    setattr(module, name, timed)
    try:
        yield
    finally:
        setattr(module, name, function)


def going_on(directory: RunDirectory) -> None:
    """What each stage reads and builds before its first step, when it goes on."""
    config = load_config(directory.config)
    tokenizer = load_tokenizer(directory.final("sft"), config.model)
    (directory.stage("rm") / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)

    def pairs() -> Any:
        return collect(config, directory, directory.final("sft"), tokenizer)

    parts: dict[str, Callable[[], Any]] = {
        "sft: instructions": lambda: read_splits(config, directory, tokenizer),
        "rm: pairs": lambda: encode_groups(pairs(), tokenizer, config),
        "ppo: models": lambda: Models(config, directory),
        "ppo: prompts": lambda: read_encoded_prompts(config, directory, tokenizer),
    }
    print()
    for name, part in parts.items():
        began = time.perf_counter()
        part()
        print(f"{name:>18} {time.perf_counter() - began:6.2f} s")


if __name__ == "__main__":
    main()
