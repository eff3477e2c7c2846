"""What a job reads from this machine's disk: models, data, and what the run directory has so far.

What lies in `cluster.shared` is there already. The rest travels with the job if it is small, where
the target can take it along, and is refused by name otherwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.data.errors import UserError
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.inputs import named_paths
from align.pipeline.run_directory import RunDirectory
from align.policy.places import EMBEDDED

MIB = 2**20


@dataclass(frozen=True)
class Need:
    """A file or folder that the job reads and that only this machine has."""

    key: str
    path: Path

    @property
    def size(self) -> int:
        """Bytes."""
        files = self.path.rglob("*") if self.path.is_dir() else (self.path,)
        return sum(file.stat().st_size for file in files if file.is_file())

    def __str__(self) -> str:
        return f"{self.key}: {self.path} ({self.size / MIB:.1f} MiB)"


def local_needs(config: RunConfig, stages: tuple[str, ...]) -> list[Need]:
    """What the config names outside of `cluster.shared`."""
    named = [("model.path", Path(config.model.path)), *named_paths(config, stages)]
    shared, seen = config.cluster.shared, set[Path]()
    needs = []
    for key, path in named:
        is_here = path.is_absolute() and path != EMBEDDED
        if is_here and path not in seen and not (shared and path.is_relative_to(shared)):
            seen.add(path)
            needs.append(Need(key, path))
    return needs


def finished_stages(config: RunConfig, run_dir: Path) -> list[Need]:
    """The models of a local run that a job is to go on from."""
    directory, shared = RunDirectory(run_dir), config.cluster.shared
    if shared and run_dir.is_relative_to(shared):
        return []
    return [
        Need(f"run directory, {stage}", directory.final(stage))
        for stage in STAGES
        if directory.is_finished(stage)
    ]


def refuse(needs: list[Need], config: RunConfig, reason: str) -> None:
    """Raises UserError, one line for each of `needs`."""
    shared = config.cluster.shared
    fix = f"move it into {shared}" if shared else "set cluster.shared to a folder that has it"
    if needs:
        raise UserError("\n".join(f"{need}: {reason}; {fix}" for need in needs))


def check_run_dir(config: RunConfig, run_dir: Path) -> None:
    """Raises UserError if the machines of the job could not write to the run directory."""
    shared = config.cluster.shared
    if shared is None:
        raise UserError(
            "cluster.shared: is not given; name a folder that all machines of the cluster see: the "
            "run directory goes there"
        )
    if not run_dir.is_relative_to(shared):
        raise UserError(
            f"{run_dir}: is not in cluster.shared ({shared}), where the machines of the job can "
            f"write; give --run-dir {shared / run_dir.name}"
        )


def relocated(config: RunConfig, places: dict[Path, Path]) -> RunConfig:
    """The config with other paths: `places` says where the cluster has what lies here."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(one) for name, one in value.items()}
        if isinstance(value, list):
            return [moved(one) for one in value]
        return str(places[Path(value)]) if _is_path(value) and Path(value) in places else value

    return RunConfig.model_validate(moved(config.model_dump(mode="json")))


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/")


def with_address(config: RunConfig, address: str) -> RunConfig:
    """The config of a run that finds Ray at `address`."""
    cluster = config.cluster.model_copy(update={"address": address})
    return config.model_copy(update={"cluster": cluster})
