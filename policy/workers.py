"""Ray actors that sample answers. The trainer keeps the weights; they hold a copy."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.data.errors import UserError
from align.policy.adapters import add_adapter
from align.policy.config import AdapterConfig
from align.policy.model import cast_parameters
from align.policy.rollout import Sample, SampleRequest
from align.policy.sample import SamplingSettings, sample
from align.policy.weights import Packed, checksum, checksum_of, load_packed

PLACEMENT_SECONDS = 30
RESTARTS = 3
"""How often each worker may die between two syncs, on average; more often is no accident."""

logger = logging.getLogger(__name__)


class Sampler:
    """One worker: a model, the version of its weights, and a loop that draws answers."""

    def __init__(
        self,
        config: PretrainedConfig,
        adapter: AdapterConfig | None,
        dtype: torch.dtype,
        threads: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        # The same adapters as the trainer's, so that adapters alone need to travel.
        self.model: Any = add_adapter(model, adapter, 0, check=False) if adapter else model
        cast_parameters(self.model, dtype)  # peft makes adapters in fp32
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.version = -1
        self._tokenizer = tokenizer

    def load(self, packed: Packed, version: int) -> str:
        """Take new weights; return the digest of what the model holds afterwards."""
        load_packed(self.model, packed)
        self.version = version
        return checksum_of(self.model, packed)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[Sample]:
        """Draw one unit of answers."""
        return sample(self.model, requests, settings, self.version, self._tokenizer)


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
    ) -> None:
        """The tokenizer is for settings with stop texts."""
        self._group = _place(count, cpus, gpus)
        actor = ray.remote(num_cpus=cpus, num_gpus=gpus)(Sampler)

        def start(index: int) -> Any:
            return actor.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=self._group, placement_group_bundle_index=index
                )
            ).remote(config, adapter, dtype, threads, tokenizer)

        self._start = start
        self._workers = [start(index) for index in range(count)]
        # All weights, and the newest: what a worker needs that starts again.
        self._sent: list[tuple[ray.ObjectRef[Packed], int]] = []
        self._restarts = 0

    def sync(self, packed: Packed, version: int) -> None:
        """Give every worker new weights and compare what each then holds, byte for byte."""
        expected = checksum(packed)
        self._sent = [*self._sent[:1], (ray.put(packed), version)]
        self._restarts = 0
        loading = [worker.load.remote(*self._sent[-1]) for worker in self._workers]
        for index, reply in enumerate(loading):
            try:
                digest = ray.get(reply)
            except RayActorError as error:
                digest = self._restart(index, error)
            if digest != expected:
                raise RuntimeError(
                    f"rollout worker {index} holds weights {digest} after sync {version}, "
                    f"the trainer sent {expected}"
                )

    def sample(
        self, requests: Sequence[SampleRequest], settings: SamplingSettings, rows_per_unit: int
    ) -> list[Sample]:
        """Draw all answers, in the order of the requests.

        Prompts of like length share a unit; a unit goes to whichever worker is free. Neither
        the number of workers nor their speed changes an answer.
        """
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        units = [order[i : i + rows_per_unit] for i in range(0, len(order), rows_per_unit)]
        results: list[Sample | None] = [None] * len(requests)
        for unit, samples in self._work(units, requests, settings):
            for index, drawn in zip(unit, samples, strict=True):
                results[index] = drawn
        assert all(result is not None for result in results)
        return [result for result in results if result is not None]

    def _work(
        self,
        units: list[list[int]],
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
    ) -> Iterator[tuple[list[int], list[Sample]]]:
        """Keep every worker busy until no unit is left; yield units as they come back."""
        waiting = deque(units)
        busy: dict[Any, tuple[int, list[int]]] = {}

        def hand_out(index: int) -> None:
            if waiting:
                unit = waiting.popleft()
                reference = self._workers[index].sample.remote(
                    [requests[i] for i in unit], settings
                )
                busy[reference] = (index, unit)

        for index in range(len(self._workers)):
            hand_out(index)
        while busy:
            (done,), _ = ray.wait(list(busy), num_returns=1)
            index, unit = busy.pop(done)
            try:
                samples = ray.get(done)
            except RayActorError as error:
                self._restart(index, error)
                waiting.appendleft(unit)  # its noise is its own: the answers are the same
                hand_out(index)
                continue
            hand_out(index)
            yield unit, samples

    def _restart(self, index: int, error: RayActorError) -> str:
        """Start a dead worker again with the weights of the last sync; their digest."""
        while True:
            self._restarts += 1
            reason = str(error).strip().splitlines()[0]
            if self._restarts > RESTARTS * len(self._workers):
                raise RuntimeError(
                    f"rollout workers died {self._restarts} times since the last sync, the last "
                    f"was worker {index}: {reason}"
                )
            logger.warning("rollout worker %d died and starts again: %s", index, reason)
            ray.kill(self._workers[index])  # one that is only out of reach would keep its CPUs
            self._workers[index] = self._start(index)
            try:
                # Calls of one actor run in order.
                digests: list[str] = ray.get(
                    [self._workers[index].load.remote(*sent) for sent in self._sent]
                )
                return digests[-1]
            except RayActorError as another:
                error = another  # it was put on a node that is dead and not yet known to be

    def close(self) -> None:
        """End the workers and free their CPUs."""
        for worker in self._workers:
            ray.kill(worker)
        remove_placement_group(self._group)

    def __enter__(self) -> "RolloutWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _place(count: int, cpus: float, gpus: float) -> PlacementGroup:
    """Reserve room for all workers, or say in one line that there is none."""
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    group: PlacementGroup = placement_group([bundle] * count, strategy="PACK")
    if not group.wait(timeout_seconds=PLACEMENT_SECONDS):
        remove_placement_group(group)
        raise UserError(
            f"no room for rollout.workers: {count} with {cpus:g} CPU each; the cluster has "
            f"{ray.available_resources().get('CPU', 0):g} of "
            f"{ray.cluster_resources().get('CPU', 0):g} CPUs free. Lower rollout.workers or "
            "cluster.cpus_per_worker"
        )
    return group
