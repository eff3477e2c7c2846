"""Ray actors that sample answers. The trainer keeps the weights; they hold a copy.

Whatever happens to a worker, the answers are those that it would have drawn: their randomness is
their own, and the units in which they are drawn are cut by the config. A worker that is lost costs
its unit. Another takes that, while the lost one starts again where there is room, at once or in a
later step.
"""

import logging
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import (
    ObjectStoreFullError,
    OutOfDiskError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from align.data.errors import UserError
from align.policy.bundles import nodes_of, reserve
from align.policy.config import AdapterConfig
from align.policy.handout import HandOut
from align.policy.rollout import Sample, SampleRequest, cut_units
from align.policy.sample import SamplingSettings, check_room
from align.policy.sampler import Sampler
from align.policy.vllm_engine import VLLMSampler, VLLMSettings
from align.policy.weights import Packed, checksum

START_SECONDS = 300
"""For a worker to be there and to load its weights."""
RESTARTS = 3
"""How often each worker may be lost between two syncs, on average; more often is no accident."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """What a worker was asked for, and has not answered yet."""

    worker: int
    due: float
    """On the clock of `time.monotonic`."""
    unit: int | None = None
    """Without one it loads weights."""
    again: bool = False
    """It does so because it was lost, and nobody waits for it."""


class RolloutWorkers:
    """A group of samplers; use it in a `with` block, which ends them."""

    def __init__(
        self,
        count: int,
        cpus: float,
        threads: int,
        config: PretrainedConfig,
        adapter: AdapterConfig | None,
        dtype: torch.dtype,
        gpus: float = 0.0,
        tokenizer: PreTrainedTokenizerBase | None = None,
        unit_seconds: float = 600.0,
        vllm: VLLMSettings | None = None,
    ) -> None:
        """The tokenizer is for stop texts; a unit that takes longer than `unit_seconds` hangs.

        Raises: UserError where the cluster has no room.
        """
        self._config, self._unit_seconds = config, unit_seconds
        self._group = reserve(count, cpus, gpus)
        self._sleeps = vllm is not None and vllm.sleeps
        sampler, last = (VLLMSampler, vllm) if vllm else (Sampler, tokenizer)
        actor = ray.remote(num_cpus=cpus, num_gpus=gpus)(sampler)

        def start(worker: int) -> Any:
            return actor.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=self._group, placement_group_bundle_index=worker
                )
            ).remote(config, adapter, dtype, threads, last)

        self._start = start
        self._actors = [start(worker) for worker in range(count)]
        self._nodes = nodes_of(self._group)
        # All weights, and the newest: what a worker needs that starts again.
        self._sent: list[tuple[ray.ObjectRef[Packed], int]] = []
        self._names: AbstractSet[str] = set()
        self._expected = ""
        self._calls: dict[Any, Call] = {}
        self._ready: set[int] = set()
        self._losses = 0

    def sync(self, packed: Packed, version: int) -> None:
        """Give every worker new weights and compare what each then holds, byte for byte.

        Raises: UserError where the object store cannot hold them, RuntimeError where a worker
        holds others.
        """
        self._expected, self._losses = checksum(packed), 0
        # Adapters need the base that was sent before them.
        before = [] if packed.keys() >= self._names else self._sent[:1]
        self._names = self._names or packed.keys()
        self._sent = [*before, (_put(packed), version)]
        starting = {call.worker for call in self._calls.values()}
        self._calls, self._ready = {}, set()
        for worker in range(len(self._actors)):
            self._load(worker, again=worker in starting)
        while not self._ready or not all(call.again for call in self._calls.values()):
            self._next()

    def sample(
        self, requests: Sequence[SampleRequest], settings: SamplingSettings, rows_per_unit: int
    ) -> list[Sample]:
        """Draw all answers, in the order of the requests.

        Prompts of like length share a unit; a unit goes to whichever worker is free. Neither
        the number of workers nor their speed changes an answer.
        Raises: UserError where a prompt leaves no room for an answer.
        """
        check_room(self._config, requests, settings)
        units = cut_units(requests, rows_per_unit)
        drawn: dict[int, Sample] = {}
        hand_out = HandOut(sorted(self._ready), len(units))
        while len(drawn) < len(requests):
            for worker, unit in hand_out.assignments():
                asked = [requests[i] for i in units[unit]]
                reply = self._actors[worker].sample.remote(asked, settings)
                self._calls[reply] = Call(worker, time.monotonic() + self._unit_seconds, unit)
            call, samples = self._next()
            if call.unit is not None and samples is None:
                hand_out.undone(call.unit)
            elif samples is not None:
                hand_out.free(call.worker)
            if call.unit is not None and samples is not None:
                drawn |= zip(units[call.unit], samples, strict=True)
        if self._sleeps:  # one that is dead is noticed when there is work again
            ray.wait(naps := [a.sleep.remote() for a in self._actors], num_returns=len(naps))
        return [drawn[index] for index in range(len(requests))]

    def _load(self, worker: int, *, again: bool = False) -> None:
        """Ask for the newest weights, and before them for all, of a worker that has none."""
        # Calls of one actor run in order.
        for sent in self._sent if again else self._sent[-1:]:
            reply = self._actors[worker].load.remote(*sent)
        self._calls[reply] = Call(worker, time.monotonic() + START_SECONDS, again=again)

    def _next(self) -> tuple[Call, Any]:
        """The next call that ends, with its answer; None for one whose worker was lost."""
        first = min(self._calls, key=lambda reply: self._calls[reply].due)
        seconds = max(0.0, self._calls[first].due - time.monotonic())
        done, _ = ray.wait([*self._calls], num_returns=1, timeout=seconds)
        call = self._calls.pop(done[0] if done else first)
        if not done:
            self._lost(call, "it did not answer in time")
            return call, None
        try:
            answer = ray.get(done[0])
        except RayTaskError as error:
            raise self._failure(call, error) from error
        except RayError as error:
            lines = str(error).strip().splitlines()
            never_there = isinstance(error, RayActorError) and error.actor_init_failed
            self._lost(call, (lines[-1] if never_there else lines[0]).rstrip("."))
            return call, None
        if call.again:
            self._nodes = nodes_of(self._group)
        if call.unit is None:
            self._check_weights(call.worker, answer)
        return call, answer

    def _check_weights(self, worker: int, digest: str) -> None:
        if digest != self._expected:
            raise RuntimeError(
                f"{self._named(worker)} holds weights {digest} after sync {self._sent[-1][1]}, "
                f"the trainer sent {self._expected}"
            )
        self._ready.add(worker)

    def _lost(self, call: Call, reason: str) -> None:
        """Start a worker again, with the weights of the last sync."""
        self._losses += 1
        self._ready.discard(call.worker)
        story = f"{self._named(call.worker)}, {_doing(call)}: {reason}"
        if self._losses > RESTARTS * len(self._actors):
            raise RuntimeError(
                f"rollout workers were lost {self._losses} times since the last sync; the last: "
                f"{story}"
            )
        logger.warning("%s; it starts again", story)
        ray.kill(self._actors[call.worker])  # one that only hangs would keep its CPUs
        self._actors[call.worker] = self._start(call.worker)
        self._load(call.worker, again=True)

    def _failure(self, call: Call, error: RayTaskError) -> Exception:
        """An exception inside a worker would only come again."""
        if isinstance(error.cause, UserError):
            return error.cause
        return RuntimeError(f"{self._named(call.worker)}, {_doing(call)}: {error.cause!r}")

    def _named(self, worker: int) -> str:
        return f"rollout worker {worker} on node {self._nodes.get(worker, 'unknown')}"

    def close(self) -> None:
        """End the workers and free their CPUs."""
        for actor in self._actors:
            ray.kill(actor)
        remove_placement_group(self._group)

    def __enter__(self) -> "RolloutWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _doing(call: Call) -> str:
    return "loading weights" if call.unit is None else f"with unit {call.unit}"


def _put(packed: Packed) -> "ray.ObjectRef[Packed]":
    try:
        return ray.put(packed)
    except (ObjectStoreFullError, OutOfDiskError) as error:
        size = sum(array.nbytes for array in packed.values()) / 2**20
        raise UserError(
            f"Ray's object store has no room for {size:.0f} MiB of weights, neither in memory nor "
            "on disk: free space in Ray's temporary directory, or start the cluster with a larger "
            "--object-store-memory"
        ) from error
