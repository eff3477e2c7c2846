"""Memory as planned against memory as torch allocates it, on CPU, within 15 %."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)

from align.pipeline import memory
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.shared_base import SharedBase
from align.policy.adapters import add_adapter
from align.policy.attention import use_attention_by_text
from align.policy.logprobs import TextBatch, response_logprobs, response_values, text_batch
from align.policy.model import TokenScores, freeze
from align.policy.places import EMBEDDED
from align.policy.rollout import SampleRequest
from align.policy.sample import SamplingSettings, sample
from align.policy.shapes import Shape, read_shape

pytestmark = [
    # DeepSpeed uses parts of torch that are.
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

TOLERANCE = 0.15
ROWS, PROMPT, ANSWER = 8, 4, 60
TOKENS = ROWS * (PROMPT + ANSWER)


@contextmanager
def measured() -> Iterator[list[int]]:
    """Afterwards the list holds the most bytes that were allocated at once in the block."""
    peak: list[int] = []
    gc.collect()  # what an earlier test left would be freed in the block, and counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield peak
    assert recorded.profiler is not None
    events: Any = recorded.profiler.kineto_results
    live = highest = 0
    for event in events.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    peak.append(highest)


def small(family: str) -> PretrainedConfig:
    """A model whose weights and activations are of like size."""
    sizes: dict[str, Any] = {"vocab_size": 2048, "hidden_size": 128, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 4}
    if family == "embedded":
        return LlamaConfig.from_pretrained(EMBEDDED)
    if family == "gpt2":
        sizes |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return GPT2Config(**sizes, n_positions=128)
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 352}
    return LlamaConfig(**sizes) if family == "llama" else Qwen2Config(**sizes)


def run_config(**sections: Any) -> RunConfig:
    data = {"max_length": PROMPT + ANSWER, "max_prompt_length": PROMPT}
    rollout = {"max_new_tokens": ANSWER, "rows_per_unit": ROWS}
    sections["train"] = {"micro_batch_tokens": TOKENS, **sections.get("train", {})}
    return RunConfig(name="some", data=data, rollout=rollout, **sections)  # type: ignore[arg-type]


def trained(family: str, config: RunConfig, *, scalar: bool) -> int:
    """Peak of a model that takes two optimiser steps of two micro-batches."""
    made: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    stored = small(family)
    stored.num_labels = 1
    prompts, answers = [[5] * PROMPT] * ROWS, [[6] * ANSWER] * ROWS
    batch = text_batch(prompts, answers, torch.device("cpu"), packed=True)
    with measured() as peak:
        model: Any = made.from_config(stored, dtype=torch.float32)
        use_attention_by_text(model)
        if config.model.adapter:
            model = add_adapter(model, config.model.adapter, seed=0)
        engine = Engine(TokenScores(model) if scalar else model, 1e-3, 2, config.train)
        for step in range(2):
            for _ in range(2):
                engine.backward(_loss(engine, batch, scalar=scalar))
            engine.step(step)
    return peak[0]


def _loss(engine: Engine, batch: TextBatch, *, scalar: bool) -> torch.Tensor:
    if scalar:
        return response_values(engine, batch).mean()
    return response_logprobs(engine, batch, 1.0)[0].mean()


def planned(shape: Shape, config: RunConfig, *, scalar: bool) -> float:
    states, step = memory.training(shape, config, scalar=scalar)
    copies = memory.SCORED_LOGITS
    logits = 0.0 if scalar else memory.logits(shape, copies, ROWS * ANSWER)
    learning = memory.backward(shape, config, TOKENS, logits)
    return sum(states.values()) + max(sum(learning.values()), step)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"train": {"gradient_checkpointing": True}},
    "lora": {"model": {"lora": {"r": 8}}},
    "bf16": {"train": {"precision": "bf16"}},
    "zero-2": {"train": {"zero_stage": 2}},
    "zero-3": {"train": {"zero_stage": 3}},
}


@pytest.mark.parametrize(
    ("family", "options"),
    [("embedded", "plain"), ("gpt2", "plain"), *(("llama", options) for options in OPTIONS)],
)
def test_training_needs_what_the_plan_says(
    family: str, options: str, tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DeepSpeed's buffer would hide everything else of models as small as these.
    monkeypatch.setattr("align.pipeline.engine.BUCKET", 10**5)
    monkeypatch.setattr(memory, "BUCKET", 10**5)
    config = run_config(**OPTIONS[options])
    small(family).save_pretrained(tmp_path)
    for scalar in (False, True):
        expected = planned(read_shape(tmp_path), config, scalar=scalar)
        assert trained(family, config, scalar=scalar) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("options", ["lora", "lora zero-2", "lora zero-3", "lora bf16"])
def test_ppo_on_one_base_needs_what_the_plan_says(
    options: str, tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.pipeline.engine.BUCKET", 10**5)
    monkeypatch.setattr(memory, "BUCKET", 10**5)
    small("llama").save_pretrained(tmp_path)
    lora, _, other = options.partition(" ")
    config = run_config(**(OPTIONS[lora] | OPTIONS[other or "plain"]))
    batch = text_batch(
        [[5] * PROMPT] * ROWS, [[6] * ANSWER] * ROWS, torch.device("cpu"), packed=True
    )
    with measured() as peak:
        model = AutoModelForCausalLM.from_config(small("llama"), dtype=torch.float32)
        use_attention_by_text(model)
        base = SharedBase(model, tmp_path, config)
        base._known[tmp_path] = (base._trunk, (), torch.zeros(1, 128), (0.0, 1.0))
        policy = Engine(base.policy, 1e-3, 2, base.train)
        critic = Engine(base.critic(tmp_path), 1e-3, 2, base.train)
        for step in range(2):
            for engine in (policy, critic):
                for _ in range(2):
                    engine.backward(_loss(engine, batch, scalar=engine is critic))
            policy.step(step)
            critic.step(step)
    shape = read_shape(tmp_path)
    states, step_bytes = memory.sharing(shape, config, engines=2)
    logits = memory.logits(shape, memory.SCORED_LOGITS, ROWS * ANSWER)
    learning = memory.backward(shape, config, TOKENS, logits)
    expected = sum(states.values()) + max(sum(learning.values()), step_bytes)
    assert peak[0] == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("family", ["embedded", "llama", "gpt2"])
def test_sampling_needs_what_the_plan_says(family: str, tmp_path: Path) -> None:
    config = run_config()
    small(family).save_pretrained(tmp_path)
    settings = SamplingSettings(temperature=1.0, max_new_tokens=ANSWER, eos_id=-1)
    requests = [SampleRequest([5] * PROMPT, (1, 0, row, 0)) for row in range(ROWS)]
    with measured() as peak:
        model = AutoModelForCausalLM.from_config(small(family), dtype=torch.float32)
        sample(freeze(model), requests, settings)  # type: ignore[arg-type]
    expected = sum(memory.rollout(read_shape(tmp_path), config).values())
    assert peak[0] == pytest.approx(expected, rel=TOLERANCE)


def test_a_stage_of_zero_shards_what_it_says() -> None:
    """Twice the ranks halve the optimiser from 1 on, gradients from 2 on, weights from 3 on."""
    shape = read_shape("meta-llama/Llama-3.1-70B")
    halved: dict[int, set[str]] = {}
    for stage in range(4):
        few, many = (
            memory.training(
                shape, run_config(train={"zero_stage": stage, "ranks": ranks}), scalar=False
            )[0]
            for ranks in (2, 4)
        )
        halved[stage] = {name for name in few if many[name] < few[name]}
    assert halved == {
        0: set(),
        1: {"optimiser"},
        2: {"optimiser", "gradients"},
        3: {"optimiser", "gradients", "weights"},
    }


def test_what_is_offloaded_is_not_on_the_gpu() -> None:
    shape = read_shape("Qwen/Qwen2.5-7B")

    def parts(offload: str) -> dict[str, float]:
        train = {"zero_stage": 3, "ranks": 8, "offload": offload}
        return memory.training(shape, run_config(train=train), scalar=False)[0]

    assert parts("optimizer")["optimiser"] == 0
    assert parts("all")["weights"] == 4 * memory.LIVE_PARAMETERS < parts("optimizer")["weights"]
