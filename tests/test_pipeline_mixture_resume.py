"""SFT on a mixture that is stopped or killed in the middle learns the same rows to the same end."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import SFTTrainer

from align.pipeline import ranks, sft
from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.launch import Shares
from align.pipeline.loading import dump_config, load_config
from align.pipeline.run_directory import RunDirectory
from align.pipeline.stopping import Stop

Start = Callable[..., subprocess.Popen[str]]
Finished = Callable[..., str]
Timeless = Callable[[Path, str], list[dict[str, float]]]
SHARES = Shares(rank_cpus=1.0, worker_cpus=0.5, rank_threads=1, worker_threads=1)


def config_file(folder: Path) -> Path:
    """The tiny config with two sources and text; two passes of eight steps."""
    few = [{"instruction": f"Say {i}.", "output": f"{i}, of course."} for i in range(30)]
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    books = [{"text": f"Story {i}. " * 9} for i in range(40)]
    (folder / "books.jsonl").write_text("".join(json.dumps(row) + "\n" for row in books))
    config = load_config("tiny").model_dump(mode="json", exclude={"ppo", "rm"}, exclude_unset=True)
    config["data"]["instructions"] += [
        {"format": "alpaca", "path": "few.jsonl"},
        {"format": "text", "path": "books.jsonl"},
    ]
    sources = [{"name": "few", "quality": 3}, {"name": "books", "token_share": 0.2}]
    config["mixture"] = {"instructions": {"rows": 32, "sources": sources}}
    config["sft"] = {**config["sft"], "epochs": 2, "batch_size": 4, "packing": False}
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def same_end(run: Path, other: Path, timeless: Timeless) -> bool:
    weights = [path / "sft" / "final" / "model.safetensors" for path in (run, other)]
    bits = [path.read_bytes() for path in weights]
    return bits[0] == bits[1] and timeless(run, "sft") == timeless(other, "sft")


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Every row that reaches the model, in the order in which it does."""
    rows: list[list[int]] = []
    step = SFTTrainer.training_step

    def recorded(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        rows.extend(inputs["input_ids"].tolist())
        return step(self, model, inputs, *rest)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(SFTTrainer, "training_step", recorded)
    return rows


def run_sft(config: RunConfig, path: Path, stop_after: int | None = None) -> None:
    directory = RunDirectory(path)
    path.mkdir(exist_ok=True)
    directory.config.write_text(dump_config(config), encoding="utf-8")
    after = Checkpoints.after

    def asked(self: Checkpoints, step: int, *state: Any) -> None:
        if ranks.is_main() and step == stop_after:
            directory.stop_flag.touch()
        after(self, step, *state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "after", asked)
        sft.run(config, directory, SHARES)


@pytest.mark.usefixtures("one_rank", "one_thread")
def test_a_stopped_mixture_goes_on_with_the_next_row_also_when_it_is_built_again(
    tmp_path: Path, learnt: list[list[int]], timeless: Timeless
) -> None:
    """Stopped in each of both passes."""
    config = load_config(config_file(tmp_path))
    run_sft(config, tmp_path / "whole")
    sequence = [*learnt]
    assert len(sequence) == 64
    learnt.clear()
    for step in (3, 11):
        with pytest.raises(Stop):
            run_sft(config, tmp_path / "run", step)
        RunDirectory(tmp_path / "run").stop_flag.unlink()
        assert learnt == sequence[: 4 * step]
        shutil.rmtree(tmp_path / "run" / "data")
    run_sft(config, tmp_path / "run")
    assert learnt == sequence
    assert same_end(tmp_path / "run", tmp_path / "whole", timeless)
    rates = {row["lr"] for row in timeless(tmp_path / "run", "sft")}
    assert len(rates) > 10, "the schedule went on too"


@pytest.mark.slow
def test_a_mixture_that_is_stopped_and_killed_ends_as_it_would_have(
    tmp_path: Path, align: Start, finished: Finished, timeless: Timeless
) -> None:
    """Real processes: SIGTERM in the first pass, kill -9 in the second."""
    command = ("run", "--stage", "sft", "--config", str(config_file(tmp_path)))
    every = ("--set", "train.save_every=1", "--run-dir")
    finished(*command, *every, str(tmp_path / "whole"))
    metrics = tmp_path / "run" / "sft" / "metrics.jsonl"
    for step, number, code in ((3, signal.SIGTERM, 75), (11, signal.SIGKILL, -signal.SIGKILL)):
        with align(*command, *every, str(tmp_path / "run")) as process:
            while not metrics.exists() or len(metrics.read_text().splitlines()) < step:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.02)
            os.killpg(process.pid, number)
            printed, _ = process.communicate(timeout=200)
        assert process.returncode == code, printed
    assert "going on after step" in finished(*command, *every, str(tmp_path / "run"))
    assert same_end(tmp_path / "run", tmp_path / "whole", timeless)
