"""Which GPU does what: shares as Ray counts them, and how Ray places them."""

import math
from typing import Any

import pytest

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.launch import _shares
from align.pipeline.placement import Placement, placement
from align.pipeline.submit.job import check_gpus


def placed(ranks: int, workers: int, **cluster: Any) -> Placement:
    return placement(run_config(ranks, workers, **cluster))


def run_config(ranks: int, workers: int, **cluster: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "some",
            "train": {"ranks": ranks},
            "sft": {"batch_size": 8 * ranks},
            "rollout": {"workers": workers},
            "cluster": cluster,
        }
    )


@pytest.mark.parametrize(
    ("ranks", "workers", "rollout_gpus", "gpus", "rank_share", "worker_share"),
    [
        (1, 2, None, 1, 0.6, 0.5),  # one rank is none of Ray's, so the workers have all of its GPU
        (7, 2, None, 8, 1.0, 0.5),  # as ever: the workers share one GPU
        (6, 2, 2, 8, 1.0, 1.0),
        (6, 4, 2, 8, 1.0, 0.5),
        (8, 8, 0, 8, 0.6, 0.4),
        (8, 16, 0, 8, 0.6, 0.2),
        (8, 4, 0, 8, 0.6, 0.4),
        (4, 6, 3, 7, 1.0, 0.5),
        (2, 3, None, 3, 1.0, 0.3333),
    ],
)
def test_shares_follow_from_three_numbers(
    ranks: int,
    workers: int,
    rollout_gpus: int | None,
    gpus: int,
    rank_share: float,
    worker_share: float,
) -> None:
    made = placed(ranks, workers, rollout_gpus=rollout_gpus)
    assert (made.gpus, made.rank_share, made.worker_share) == (gpus, rank_share, worker_share)


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("workers", range(1, 20))
@pytest.mark.parametrize("rollout_gpus", [0, 1, 3])
def test_everybody_has_room_and_no_two_ranks_meet(
    ranks: int, workers: int, rollout_gpus: int
) -> None:
    if rollout_gpus > workers:
        pytest.skip("refused by the config")
    made = placed(ranks, workers, rollout_gpus=rollout_gpus)
    assert made.rank_share > 0.5
    # What is left of each GPU takes whole workers only.
    free = [1 - made.rank_share] * ranks + [1.0] * rollout_gpus
    room = sum(math.floor((share + 1e-9) / made.worker_share) for share in free)
    assert room >= workers


@pytest.mark.parametrize(
    ("ranks", "workers", "rollout_gpus", "complaint"),
    [
        (4, 2, 3, r"cluster.rollout_gpus \(3\) exceeds rollout.workers \(2\)"),
        (1, 2, 1, r"cluster.rollout_gpus \(1\) needs train.ranks 2 or more"),
    ],
)
def test_what_cannot_be_placed_dies_at_load(
    ranks: int, workers: int, rollout_gpus: int, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        run_config(ranks, workers, rollout_gpus=rollout_gpus)


@pytest.mark.parametrize(
    ("ranks", "workers", "shards", "gpus", "worker_gpus"),
    [(4, 2, 2, 8, 4), (1, 1, 2, 2, 0), (8, 1, 8, 16, 8)],
)
def test_a_sharded_worker_has_whole_gpus(
    ranks: int, workers: int, shards: int, gpus: int, worker_gpus: int
) -> None:
    given = run_config(ranks, workers).model_dump()
    given["rollout"] |= {"engine": "vllm", "tensor_parallel_size": shards}
    made = placement(RunConfig.model_validate(given))
    assert (made.gpus, made.worker_gpus, made.worker_share) == (gpus, worker_gpus, shards)
    given["cluster"]["rollout_gpus"] = 1
    with pytest.raises(ValueError, match=r"cluster.rollout_gpus \(1\) must be rollout.workers x"):
        RunConfig.model_validate(given)


def test_too_few_gpus_are_one_line_with_the_fix() -> None:
    check_gpus(run_config(7, 2, gpus_per_node=8))
    check_gpus(run_config(8, 8, gpus_per_node=8, rollout_gpus=0))
    check_gpus(run_config(99, 2))  # on CPUs
    with pytest.raises(UserError) as caught:
        check_gpus(run_config(8, 2, gpus_per_node=4, nodes=2))
    assert str(caught.value) == (
        "not enough GPUs: train.ranks 8 and 1 for rollouts make 9, and cluster.nodes x "
        "cluster.gpus_per_node is 8. Lower train.ranks, set cluster.rollout_gpus=0, or ask for "
        "more nodes"
    )


def test_a_cluster_without_gpus_has_none_shared_out() -> None:
    config = run_config(2, 2, rollout_gpus=0)
    assert _shares(config, 8, 0).rank_gpus == _shares(config, 8, 0).worker_gpus == 0
    assert (_shares(config, 8, 2).rank_gpus, _shares(config, 8, 2).worker_gpus) == (0.6, 0.4)
