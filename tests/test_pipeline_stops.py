"""A stage that is stopped after chosen steps and goes on, in this process, against one that is not.

What other trainers lost there, a test for each. The stops are real; only their moment is arranged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from align.pipeline import ppo, ranks, rm, sft
from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.launch import Shares
from align.pipeline.loading import dump_config, load_config
from align.pipeline.run_directory import RunDirectory
from align.pipeline.stopping import Stop

pytestmark = pytest.mark.usefixtures("one_rank")
Timeless = Callable[[Path, str], list[dict[str, float]]]

RUN = {"sft": sft.run, "rm": rm.run, "ppo": ppo.run}
SHARES = Shares(rank_cpus=1.0, worker_cpus=0.5, rank_threads=1, worker_threads=1)


def config_after(tiny_run: Path, *overrides: str) -> RunConfig:
    """The tiny config, with the models of the tiny run as inputs."""
    models = (
        f"rm.model={tiny_run / 'sft' / 'final'}",
        f"ppo.policy={tiny_run / 'sft' / 'final'}",
        f"ppo.reward_model={tiny_run / 'rm' / 'final'}",
    )
    return load_config("tiny", [*models, *overrides])


@contextmanager
def stopping_after(steps: Sequence[int], directory: RunDirectory) -> Iterator[None]:
    """Checkpoints that find a request to stop after these steps, once after each."""
    left, after = [*steps], Checkpoints.after

    def asked(self: Checkpoints, step: int, *state: Any) -> None:
        if ranks.is_main():
            directory.stop_flag.unlink(missing_ok=True)
            if step in left:
                left.remove(step)
                directory.stop_flag.touch()
        after(self, step, *state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "after", asked)
        yield


def directory_for(config: RunConfig, path: Path) -> RunDirectory:
    path.mkdir(exist_ok=True)
    RunDirectory(path).config.write_text(dump_config(config), encoding="utf-8")
    return RunDirectory(path)


def run_stage(stage: str, config: RunConfig, path: Path, stops: Sequence[int]) -> None:
    """Run a stage to its end, with a stop after each of these steps and the same command again."""
    directory = directory_for(config, path)
    with stopping_after(stops, directory):
        for _ in stops:
            with pytest.raises(Stop):
                RUN[stage](config, directory, SHARES)
        RUN[stage](config, directory, SHARES)


def test_openrlhf_1103_the_data_goes_on_where_it_was(
    tiny_run: Path, tmp_path: Path, timeless: Timeless
) -> None:
    """SFT's loader is of another library: a fresh one would begin with the first rows again."""
    run_stage("sft", config_after(tiny_run), tmp_path / "run", [2])
    rows, whole = timeless(tmp_path / "run", "sft"), timeless(tiny_run, "sft")
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in whole], rel=1e-5)
    assert len({row["loss"] for row in rows}) == len(rows) == 5


def test_verl_7401_and_5725_no_step_is_lost_at_the_edge_of_an_epoch(
    tiny_run: Path, tmp_path: Path, timeless: Timeless
) -> None:
    """An epoch has two steps here: stops at the edge between two, and at the first and the last."""
    few = "data.feedback=[{format: simulated, rows: 12}]"
    config = config_after(tiny_run, few, "rm.epochs=2")
    for name, stops in (("whole", []), ("run", [1, 2, 4])):
        run_stage("rm", config, tmp_path / name, stops)
    rows, whole = (timeless(tmp_path / name, "rm") for name in ("run", "whole"))
    assert rows == whole and len(rows) == 4
