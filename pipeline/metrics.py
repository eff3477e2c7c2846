"""The numbers of every training step: `STAGE/metrics.jsonl`, TensorBoard, and wandb if there.

The names are frozen: scripts and dashboards of users read them. `METRICS` says what each one
means; the metrics reference is generated from it.
"""

import importlib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from align.data.atomic import written_whole
from align.data.errors import DataError, UserError, naming
from align.pipeline.results import read_json_lines

FILE_NAME = "metrics.jsonl"

METRICS: dict[str, dict[str, str]] = {
    "all": {
        "loss": "What the optimiser minimises: nats per answer token (sft), per pair (rm), "
        "all losses together (ppo)",
        "lr": "Learning rate of this step",
        "grad_norm": "Norm of the gradient before clipping",
        "tokens_per_second": "Tokens trained on per second, padding not counted",
        "time/<part>": "Wall-clock time of one part of the step (seconds)",
        "eval/<name>": "The metric <name> on held-out data, only at evaluation steps",
    },
    "sft": {
        "eval/loss/<source>": "Held-out loss of one source of instructions, where there are "
        "several (nats per answer token)",
        "token_accuracy": "Share of answer tokens that the model ranks first",
    },
    "rm": {
        "accuracy": "Share of pairs whose preferred answer has the higher reward",
        "margin": "Mean reward of the preferred answer minus the other (reward)",
        "log_loss": "Mean negative log probability of the preference (nats per pair)",
        "ece": "Expected calibration error of the predicted preference (probability)",
    },
    "ppo": {
        "objective/scores": "Mean score of the sampled answers, before the KL penalty (reward)",
        "objective/rlhf_reward": "Mean score minus the KL penalty (reward)",
        "objective/non_score_reward": "Mean KL penalty, as part of the reward (reward)",
        "objective/kl": "Mean KL divergence from the reference model (nats per answer)",
        "objective/entropy": "Mean entropy of the next-token distribution (nats per token)",
        "policy/approxkl": "KL divergence of the updated policy from the one that sampled "
        "(nats per token)",
        "policy/clipfrac": "Share of answer tokens whose probability ratio was clipped",
        "loss/policy": "Clipped policy loss (per answer token)",
        "loss/ptx": "Loss on instructions that are mixed in (nats per answer token)",
        "loss/value": "Clipped value loss (squared reward per answer token)",
        "val/clipfrac": "Share of answer tokens whose value change was clipped",
        "val/ratio": "Mean probability ratio of the updated policy to the one that sampled",
        "val/explained_variance": "Share of the variance of the returns that the critic predicts "
        "(at most 1)",
        "answer/length": "Mean length of the sampled answers (tokens)",
        "answer/eos_rate": "Share of sampled answers that end by themselves",
        "answer/distinct2": "Share of distinct pairs of neighbouring tokens in the answers",
        "reward/<part>": "Mean of one part of a mixed reward (reward)",
        "kl_coef": "Reward lost per nat of drift from the reference",
        "mfu": "Model FLOPs utilisation: share of the device's peak that was used",
    },
}
"""Stage (or `all`) -> metric name -> meaning and unit. A name with <...> is a prefix."""

logger = logging.getLogger(__name__)


class MetricsLog:
    """Writes the metrics of one stage. Only the main rank opens one.

    The stage's directory must be called after the stage. A value that is not finite becomes
    `null` in the file, because JSON has no NaN and most readers refuse one, and is warned about
    once per name; TensorBoard and wandb get the value itself.
    """

    def __init__(self, directory: Path) -> None:
        """Open `directory`/metrics.jsonl for appending; the directory is made if need be."""
        # Here, because the report and the metrics reference need this module without its writers.
        from align.pipeline.event_file import EventFile

        self._stage = directory.name
        assert self._stage in METRICS, f"{directory} is not called after a stage"
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / FILE_NAME
        self._path.touch()
        self._last_step = self._keep_lines(until=None)
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard = EventFile(directory / "tensorboard")
        self._wandb = _start_wandb(directory)
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line. Steps must rise; names must be those in METRICS."""
        assert step > self._last_step, f"step {step} after step {self._last_step}"
        self._last_step = step
        values = {name: float(metrics[name]) for name in sorted(metrics, key=self._position)}
        row = {name: self._finite_or_none(step, name, value) for name, value in values.items()}
        with naming(self._path):
            self._file.write(json.dumps({"step": step, **row}, allow_nan=False) + "\n")
            self._file.flush()
        self._tensorboard.write(step, values)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def truncate_after(self, step: int) -> None:
        """Forget what was logged after `step`: call it when a stage goes on from a checkpoint.

        The file then has exactly one line for every step. TensorBoard hides the later points;
        wandb shows the part of the run from here on as a run of its own, in the same group.
        """
        self._file.close()
        self._last_step = self._keep_lines(until=step)
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard.restart_at(step + 1)

    def _keep_lines(self, until: int | None) -> int:
        """Rewrite the file without torn lines and steps after `until`; returns the last step."""
        content = self._path.read_bytes()
        kept: dict[int, bytes] = {}
        for line in content.split(b"\n")[:-1]:
            step = _step_of(line)
            if step is not None and (until is None or step <= until):
                kept[step] = line + b"\n"
        rewritten = b"".join(kept.values())
        if rewritten != content:
            with written_whole(self._path) as file:
                file.write(rewritten)
        return max(kept, default=-1)

    def _position(self, name: str) -> tuple[int, str]:
        """Where a name stands in a line: the order of METRICS, then by name under a prefix."""
        known = [*METRICS["all"], *METRICS[self._stage]]
        if name in known:
            return known.index(name), name
        prefixes = {one.partition("<")[0]: index for index, one in enumerate(known) if "<" in one}
        fitting = [one for one in prefixes if name.startswith(one) and name != one]
        if not fitting:
            raise AssertionError(f"{name} is no metric of stage {self._stage}: add it to METRICS")
        return prefixes[max(fitting, key=len)], name

    def _finite_or_none(self, step: int, name: str, value: float) -> float | None:
        if math.isfinite(value):
            return value
        if name not in self._warned:
            logger.warning("%s: %s is %s at step %d", self._stage, name, value, step)
        self._warned.add(name)
        return None


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, in file order; a value that was not finite is NaN.

    A torn last line is left out. Raises DataError at any other broken line, and
    FileNotFoundError.
    """
    rows = []
    for number, row in read_json_lines(path):
        numbers = {name: math.nan if value is None else value for name, value in row.items()}
        if type(row.get("step")) is not int:
            raise DataError(f"{path}:{number}: `step` is not a whole number: {row.get('step')!r}")
        wrong = [name for name, value in numbers.items() if type(value) not in (int, float)]
        if wrong:
            raise DataError(f"{path}:{number}: `{wrong[0]}` is not a number: {row[wrong[0]]!r}")
        rows.append(numbers)
    return rows


def _start_wandb(directory: Path) -> Any | None:
    """A wandb run if wandb is installed and WANDB_PROJECT is set, else None."""
    if not os.environ.get("WANDB_PROJECT") or importlib.util.find_spec("wandb") is None:
        return None
    wandb = importlib.import_module("wandb")
    run_name = directory.resolve().parent.name
    try:
        return wandb.init(dir=directory, group=run_name, name=f"{run_name}/{directory.name}")
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"wandb: {reason}: run `wandb login`, set WANDB_MODE=offline, or unset WANDB_PROJECT"
        ) from error


def _step_of(line: bytes) -> int | None:
    """The step of a metrics line; None for a torn one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if type(step) is int else None
