"""A run that is to happen elsewhere: what it reads, where it writes, and the command that makes it.

The command is the one a person would give, so whatever restarts it makes it go on.
"""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.loading import dump_config
from align.pipeline.placement import placement

COMMAND = "from align.pipeline.cli import main; main()"
"""What the `align` command does, for an interpreter whose folder is on no PATH."""

ENTRY = ("-m", "align.pipeline.submit.entry")
"""Arguments of an interpreter on machines that have their own."""


@dataclass(frozen=True)
class Job:
    """A run as a cluster will see it; paths are the cluster's."""

    config: RunConfig
    stages: tuple[str, ...]
    run_dir: Path
    uploads: tuple[tuple[Path, Path], ...] = ()
    """A file or folder of this machine, and where it lies in what travels with the job."""
    resume: str = "auto"
    """As `--resume` takes it, for the first start, where only the cluster sees the run."""

    @property
    def stage(self) -> str:
        """As `--stage` takes it."""
        return self.stages[0] if len(self.stages) == 1 else "all"

    @property
    def digest(self) -> str:
        """Names what is run: the config, the stages and the run directory."""
        text = f"{dump_config(self.config)}{self.stages}{self.run_dir}"
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def run_arguments(config_file: Path | str, stage: str, run_dir: Path) -> list[str]:
    """Arguments of `align` that make or continue the run."""
    return ["run", "--config", str(config_file), "--stage", stage, "--run-dir", str(run_dir)]


def shell(command: list[str]) -> str:
    """One line of shell."""
    return shlex.join(command)


def check_gpus(config: RunConfig) -> None:
    """Raises UserError if the run needs more GPUs than it asks for."""
    cluster, needed = config.cluster, placement(config)
    asked = cluster.nodes * cluster.gpus_per_node
    if cluster.gpus_per_node and needed.gpus > asked:
        raise UserError(
            f"not enough GPUs: train.ranks {needed.ranks} and {needed.worker_gpus} for rollouts "
            f"make {needed.gpus}, and cluster.nodes x cluster.gpus_per_node is {asked}. Lower "
            "train.ranks, set cluster.rollout_gpus=0, or ask for more nodes"
        )
