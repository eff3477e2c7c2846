"""Where training processes come from: one runs here, several as a Ray Train group.

The only module that knows the difference.
"""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import datasets
import ray
import ray.train
import torch
import torch.distributed as dist
from transformers.utils import logging as transformers_logging

from align.data.errors import UserError
from align.pipeline import ranks, ray_health, shared_memory_op, stopping, watchdog
from align.pipeline.accelerator import deepspeed
from align.pipeline.config import ClusterConfig, RunConfig
from align.pipeline.engine import quiet
from align.pipeline.placement import placement
from align.pipeline.run_directory import RunDirectory, held_by_ranks

BACKEND = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
PLACEMENT_SECONDS = 30


@dataclass(frozen=True)
class Shares:
    """What every process of a run may use."""

    rank_cpus: float
    worker_cpus: float
    rank_threads: int
    worker_threads: int
    rank_gpus: float = 0.0
    worker_gpus: float = 0.0


def launch(
    work: Callable[[Shares], int], config: RunConfig, directory: RunDirectory, *, ray_needed: bool
) -> int:
    """Run `work` on every rank; the exit code of rank 0."""
    if config.train.ranks == 1 and not ray_needed:
        shares = _shares(config, cluster_cpus=os.cpu_count() or 1)
        return _in_process(work, config, shares, directory)
    # The dashboard serves the state API, without which Ray Train complains every second.
    with ray_session(config.cluster, dashboard=config.train.ranks > 1):
        there = ray.cluster_resources()
        shares = _shares(config, there.get("CPU", 0), there.get("GPU", 0))
        if config.train.ranks == 1:
            return _in_process(work, config, shares, directory)
        return _in_group(work, config, shares, directory)


@contextmanager
def ray_session(cluster: ClusterConfig, *, dashboard: bool) -> Iterator[None]:
    """A connection to the named cluster, or a cluster of its own on this machine."""
    address = None if cluster.address == "local" else cluster.address
    if address is None:
        _check_free_port()
    elif address != "auto":
        _check_reachable(cluster.address)
    try:
        with stopping.deaf_children():
            ray.init(
                address=address or "local",
                include_dashboard=dashboard if address is None else None,
                logging_level=logging.ERROR,
                log_to_driver=True,
            )
    except Exception as error:  # Ray raises plain ones where its processes come up too slowly
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if address is None:
            raise UserError(
                f"Ray does not start on this machine ({reason}): give the same command again, when "
                "the machine is less busy"
            ) from error
        raise UserError(
            f"no Ray cluster at cluster.address: {cluster.address} ({reason})"
        ) from error
    try:
        with ray_health.watched():
            yield
    finally:
        ray.shutdown()


def _check_free_port() -> None:
    """Ray's processes talk over ports of this machine; without one it waits for minutes."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"Ray needs a free port of 127.0.0.1 and cannot have one ({error}): close what takes "
            "them, or allow local connections"
        ) from error


def _check_reachable(address: str) -> None:
    """Ray itself waits minutes for a cluster that is not there, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray cluster at cluster.address: {address} ({error}); give host:port, `auto` or "
            "`local`"
        ) from error


def _shares(config: RunConfig, cluster_cpus: float, cluster_gpus: float = 0) -> Shares:
    """Shares of CPUs and GPUs that let all ranks and rollout workers be placed at once.

    They take turns, so each may use all the threads of its kind.
    """
    count, workers = config.train.ranks, config.rollout.workers
    asked = workers + (count if count > 1 else 0)
    fair = min(1.0, int(100 * cluster_cpus / asked) / 100)
    cpus = os.cpu_count() or 1
    placed = placement(config) if cluster_gpus else None
    return Shares(
        rank_cpus=config.cluster.cpus_per_rank or fair,
        worker_cpus=config.cluster.cpus_per_worker or fair,
        rank_threads=max(1, cpus // count),
        worker_threads=max(1, cpus // workers),
        rank_gpus=placed.rank_share if placed else 0.0,
        worker_gpus=placed.worker_share if placed else 0.0,
    )


def _in_process(
    work: Callable[[Shares], int], config: RunConfig, shares: Shares, directory: RunDirectory
) -> int:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    # A store in memory needs no port, so any number of runs fit on a machine.
    dist.init_process_group(BACKEND, store=dist.HashStore(), rank=0, world_size=1)
    try:
        # After Ray has started, since it puts a handler of its own in place.
        with stopping.listening(directory.stop_flag):
            return _work_on_this_rank(work, config, shares, directory)
    finally:
        dist.destroy_process_group()


def _in_group(
    work: Callable[[Shares], int], config: RunConfig, shares: Shares, directory: RunDirectory
) -> int:
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig
    from ray.train import RunConfig as TrainRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # Ray Train sends what a rank prints through a logger, past those who catch it to read it.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    count, gpus = config.train.ranks, shares.rank_gpus
    _check_room(count, shares.rank_cpus, gpus)

    settings: Any = TrainRunConfig  # its stubs are of the release before

    def on_a_rank() -> dict[str, Any]:
        is_first = ray.train.get_context().get_world_rank() == 0
        holding = held_by_ranks(directory) if is_first else nullcontext()
        # Ray Train retries whatever is raised; a person's mistake would only fail again.
        try:
            with holding:
                return {"code": _work_on_this_rank(work, config, shares, directory)}
        except UserError as error:
            return {"user_error": str(error)}

    trainer: Any = TorchTrainer(
        cast(Any, on_a_rank),  # typed as returning nothing, yet its value comes back
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": shares.rank_cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=settings(
            name="ranks",
            storage_path=str(directory.path / "ray"),
            # A group that starts again goes on from the newest checkpoint.
            failure_config=FailureConfig(max_failures=config.cluster.max_restarts),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    with stopping.listening(directory.stop_flag):
        answer = trainer.fit().return_value
    assert isinstance(answer, dict)
    if "user_error" in answer:
        raise UserError(answer["user_error"])
    return int(answer["code"])


def _work_on_this_rank(
    work: Callable[[Shares], int], config: RunConfig, shares: Shares, directory: RunDirectory
) -> int:
    silence_deprecations()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(shares.rank_threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(shares.rank_threads))  # accelerate asks
    shared_memory_op.prepare()
    shared_memory_op.wait_for_others()
    with quiet():
        deepspeed.init_distributed(dist_backend=BACKEND, auto_mpi_discovery=False)
    minutes = config.cluster.hang_minutes
    with watchdog.watching(directory.path, ranks.rank(), ranks.world_size(), minutes):
        return work(shares)


def silence_deprecations() -> None:
    """Nobody who trains a model can mend what DeepSpeed calls in torch."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(deepspeed|torch)\b")


def _check_room(count: int, cpus: float, gpus: float) -> None:
    """One line instead of Ray Train's endless wait for resources that the cluster lacks."""
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    group = ray.util.placement_group([bundle] * count)
    placed = group.wait(timeout_seconds=PLACEMENT_SECONDS)
    ray.util.remove_placement_group(group)
    if not placed:
        gpu = " and a GPU" if gpus else ""
        raise UserError(
            f"no room for train.ranks: {count} with {cpus:g} CPU{gpu} each; the cluster has "
            f"{ray.cluster_resources().get('CPU', 0):g} CPUs and "
            f"{ray.cluster_resources().get('GPU', 0):g} GPUs. Lower train.ranks or "
            "cluster.cpus_per_rank"
        )
