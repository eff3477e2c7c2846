"""Which GPU does what: training ranks, rollout workers, and whether they share.

A rank takes one GPU. Rollout workers lie apart, on GPUs of their own, or with the ranks, on theirs:
both take turns in a PPO step, so sharing costs memory and no time.
"""

from dataclasses import dataclass

from align.pipeline.config import RunConfig

RANK_SHARE = 0.6
"""Of a GPU that workers share: more than half, so that no two ranks are put on one."""


@dataclass(frozen=True)
class Placement:
    """Shares of GPUs, as Ray counts them."""

    ranks: int
    workers: int
    worker_gpus: int
    """GPUs of the workers alone; 0 where they share those of the ranks."""
    shards: int = 1
    """GPUs of one worker; several are all its own."""

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return max(self.ranks + self.worker_gpus, self.shards)

    @property
    def rank_share(self) -> float:
        """Of one GPU, for each rank."""
        return 1.0 if self.worker_gpus else RANK_SHARE

    @property
    def workers_per_gpu(self) -> int:
        """Workers that share a GPU with one another."""
        return -(-self.workers // (self.worker_gpus or self.ranks))

    @property
    def worker_share(self) -> float:
        """Of one GPU, for each worker. One rank alone is none of Ray's, so all of its GPU is
        theirs."""
        if self.shards > 1:
            return float(self.shards)
        free = 1.0 if self.worker_gpus or self.ranks == 1 else 1 - RANK_SHARE
        return int(10_000 * free / self.workers_per_gpu) / 10_000  # Ray counts in 1/10000


def placement(config: RunConfig) -> Placement:
    """What the config asks for; without `cluster.rollout_gpus` several ranks leave one GPU to the
    workers, and one rank shares its own."""
    ranks, asked = config.train.ranks, config.cluster.rollout_gpus
    shards = config.rollout.tensor_parallel_size
    derived = config.rollout.workers * shards if shards > 1 else 1
    apart = (derived if ranks > 1 else 0) if asked is None else asked
    return Placement(ranks, config.rollout.workers, apart, shards)
