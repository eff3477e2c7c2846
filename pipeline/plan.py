"""`align plan`: does a run fit its GPUs, and if not, what makes it fit.

Each stage has its moment of most memory: the backward pass of a micro-batch, or the optimiser's
step. On CPUs all processes of a machine share its memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from align.pipeline import memory
from align.pipeline.config import RunConfig
from align.pipeline.memory import Parts
from align.pipeline.placement import Placement, placement
from align.policy.config import LoRAConfig
from align.policy.shapes import Shape, read_shape

GIB = 2**30
PROCESS = 0.7 * GIB
"""Python, torch, DeepSpeed and Ray in one process, before any model."""
CONTEXT = 1.0 * GIB
"""CUDA's and NCCL's own memory on a GPU, for one process."""


@dataclass(frozen=True)
class Plan:
    """Bytes by what they are for."""

    config: RunConfig
    shape: Shape
    placed: Placement
    stages: dict[str, Parts]
    """Of one rank, in each stage."""
    worker: Parts
    """Of one rollout worker."""

    @property
    def on_gpus(self) -> bool:
        """Whether the run asks for GPUs."""
        return self.config.cluster.gpus_per_node > 0

    @property
    def rank(self) -> float:
        """The stage that needs most."""
        return max(sum(parts.values()) for parts in self.stages.values())

    @property
    def workers_on_a_gpu(self) -> float:
        """All that share one."""
        return self.placed.workers_per_gpu * sum(self.worker.values())

    @property
    def places(self) -> dict[str, tuple[float, float]]:
        """Place -> bytes needed and bytes there, of one GPU or machine of the kind."""
        cluster = self.config.cluster
        room = cluster.gpu_memory * GIB
        if not self.on_gpus:
            nodes, workers = cluster.nodes, self.placed.workers
            needed = -(-self.placed.ranks // nodes) * self.rank
            needed += -(-workers // nodes) * sum(self.worker.values())
            there = cluster.node_memory * GIB if cluster.node_memory else _memory_here()
            return {"a machine": (needed, there)}
        if self.placed.worker_gpus:
            return {
                "a GPU of the ranks": (self.rank, room),
                "a GPU of the rollout workers": (self.workers_on_a_gpu, room),
            }
        return {"a GPU of ranks and workers": (self.rank + self.workers_on_a_gpu, room)}

    @property
    def host(self) -> float:
        """Memory of one machine while its ranks load a model, each the whole of it in fp32, and
        what is offloaded to it."""
        cluster, train = self.config.cluster, self.config.train
        ranks = min(train.ranks, cluster.gpus_per_node) if self.on_gpus else 0
        loading = 4 * ranks * self.shape.parameters
        engines = 1 + self.config.ppo.has_critic
        moments = 12 * engines * self.shape.parameters / train.ranks
        return loading + ranks * (moments if train.offload != "none" else 0)

    @property
    def fits(self) -> bool:
        """Whether every place has room."""
        room = self.config.cluster.node_memory if self.on_gpus else None
        return all(needed <= there for needed, there in self.places.values()) and (
            room is None or self.host <= room * GIB
        )


def _memory_here() -> float:
    return float(psutil.virtual_memory().total)


def make_plan(config: RunConfig) -> Plan:
    """Raises UserError if nothing is known of the model's shape."""
    shape = read_shape(config.model.path)
    process = CONTEXT if config.cluster.gpus_per_node else PROCESS
    stages = {"sft": _sft(shape, config), "rm": _rm(shape, config), "ppo": _ppo(shape, config)}
    stages = {name: {**parts, "process": process} for name, parts in stages.items()}
    worker = {**memory.rollout(shape, config), "process": process}
    return Plan(config, shape, placement(config), stages, worker)


def _sft(shape: Shape, config: RunConfig) -> Parts:
    states, step = memory.training(shape, config, scalar=False)
    tokens = config.sft_rows_at_once * config.data.max_length
    # The loss is made of tiles of the logits; evaluation has whole ones.
    held_out = memory.logits(shape, memory.SCORED_LOGITS, config.train.micro_batch_tokens)
    return _at_the_peak(states, step, memory.backward(shape, config, tokens), held_out)


def _rm(shape: Shape, config: RunConfig) -> Parts:
    states, step = memory.training(shape, config, scalar=True)
    learning = memory.backward(shape, config, config.train.micro_batch_tokens)
    return _at_the_peak(states, step, learning)


def _ppo(shape: Shape, config: RunConfig) -> Parts:
    states, step = _trained_by_ppo(shape, config)
    tokens = config.train.micro_batch_tokens
    logits = memory.logits(shape, memory.SCORED_LOGITS, tokens)
    learning = memory.backward(shape, config, tokens, logits)
    return _at_the_peak(states, step, learning, logits)


def _trained_by_ppo(shape: Shape, config: RunConfig) -> tuple[Parts, float]:
    """Of policy, critic, reference and reward model, by `pipeline/shared_base.py`."""
    train = config.train
    if config.model.adapter is None:
        states, step = memory.training(shape, config, scalar=False)
        if config.ppo.has_critic:
            critic, _ = memory.training(shape, config, scalar=True)
            states = {name: states[name] + critic[name] for name in states}
        both = (shape.parameters, shape.scalar_parameters)
        frozen = sum(memory.frozen_weights(size, train) for size in both)
    else:
        states, step = memory.sharing(shape, config, engines=1 + config.ppo.has_critic)
        from_elsewhere = config.rm.model or config.ppo.policy or config.ppo.reward_model
        adapters = memory.adapter_parameters(shape, config)
        frozen = (
            memory.frozen_weights(shape.scalar_parameters, train)
            if from_elsewhere
            else float(memory.BYTES[train.precision] * adapters)
        )
    return states | {"frozen models": frozen}, step


def _at_the_peak(states: Parts, step: float, learning: Parts, scoring: float = 0.0) -> Parts:
    """The states and whichever is largest: a backward pass, a step, or logits without gradients."""
    moments: list[Parts] = [
        learning,
        {"optimiser's step": step},
        {"logits": scoring},
    ]
    peak = max(moments, key=_together)
    return {**states, **peak}


def _together(parts: Parts) -> float:
    return sum(parts.values())


def remedies(config: RunConfig) -> Iterator[dict[str, Any]]:
    """Changes that save memory, the cheapest first, each on top of those before."""
    train = config.train
    if not train.gradient_checkpointing:
        yield {"train.gradient_checkpointing": True}
    if train.micro_batch_tokens > config.data.max_length:
        yield {"train.micro_batch_tokens": config.data.max_length}
    if config.rollout.rows_per_unit > 4:
        yield {"rollout.rows_per_unit": 4}
    if train.precision == "fp32" and config.cluster.gpus_per_node:
        yield {"train.precision": "bf16"}
    for stage in (2, 3):
        if train.zero_stage < stage and train.ranks > 1:
            yield {"train.zero_stage": stage}
    if train.offload == "none" and config.cluster.gpus_per_node:
        yield {"train.zero_stage": 3, "train.offload": "optimizer"}
    if config.model.adapter is None:
        yield {"model.lora": LoRAConfig()}


def changed(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """The config with some keys changed, unchecked."""
    for key, value in changes.items():
        part, _, name = key.partition(".")
        section = getattr(config, part).model_copy(update={name: value})
        config = config.model_copy(update={part: section})
    return config


def what_helps(plan: Plan) -> tuple[dict[str, Any], Plan] | None:
    """The first changes, taken together, that make a run fit."""
    taken: dict[str, Any] = {}
    best = plan
    # Twice: what saves nothing at first may do so once something larger is gone.
    for change in (*remedies(plan.config), *remedies(plan.config)):
        tried = make_plan(changed(best.config, change))
        if _needs(tried) < _needs(best):
            taken |= change
            best = tried
        if best.fits:
            return taken, best
    return None


def _needs(plan: Plan) -> float:
    return max(needed / there for needed, there in plan.places.values())
