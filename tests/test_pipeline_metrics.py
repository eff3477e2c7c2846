"""metrics.jsonl: one exact line per step, whatever happened to the process before."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from align.data.errors import DataError
from align.pipeline.metrics import METRICS, MetricsLog, read_metrics


def steps_in(stage: Path) -> list[float]:
    return [row["step"] for row in read_metrics(stage / "metrics.jsonl")]


def tensorboard_points(stage: Path, name: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(stage / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_step_is_one_line_and_is_read_back_exactly(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "sft") as log:
        log.log(1, {"loss": 0.1 + 0.2, "lr": 1e-5})
        log.log(2, {"loss": 2, "token_accuracy": 0.5})
    assert read_metrics(tmp_path / "sft" / "metrics.jsonl") == [
        {"step": 1, "loss": 0.1 + 0.2, "lr": 1e-5},
        {"step": 2, "loss": 2.0, "token_accuracy": 0.5},
    ]


def test_keys_have_one_order_whatever_order_they_come_in(tmp_path: Path) -> None:
    metrics = {"time/score": 1.0, "objective/kl": 2.0, "time/rollout": 3.0, "loss": 4.0}
    with MetricsLog(tmp_path / "ppo") as log:
        log.log(1, metrics)
        log.log(2, dict(reversed(metrics.items())))
    lines = (tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()
    for line in lines:
        assert list(json.loads(line)) == [
            "step",
            "loss",
            "time/rollout",
            "time/score",
            "objective/kl",
        ]


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "sft") as log:
        log.log(1, {"loss": 1.0})
        assert steps_in(tmp_path / "sft") == [1]


def test_a_value_that_is_not_finite_is_null_in_the_file_and_warned_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsLog(tmp_path / "sft") as log:
        log.log(7, {"loss": math.nan, "grad_norm": math.inf})
        log.log(8, {"loss": math.nan})
    line = (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(line) == {"step": 7, "loss": None, "grad_norm": None}
    assert math.isnan(read_metrics(tmp_path / "sft" / "metrics.jsonl")[0]["loss"])
    assert [record.getMessage() for record in caplog.records] == [
        "sft: loss is nan at step 7",
        "sft: grad_norm is inf at step 7",
    ]


@pytest.mark.parametrize("name", ["lost", "accuracy", "time/", "reward/style"])
def test_an_unknown_name_is_our_bug(tmp_path: Path, name: str) -> None:
    with MetricsLog(tmp_path / "sft") as log, pytest.raises(AssertionError, match=name):
        log.log(1, {name: 1.0})


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_every_documented_name_can_be_logged(tmp_path: Path, stage: str) -> None:
    names = [name.replace("<", "").replace(">", "") for name in METRICS["all"] | METRICS[stage]]
    with MetricsLog(tmp_path / stage) as log:
        log.log(1, dict.fromkeys(names, 1.0))
    assert list(read_metrics(tmp_path / stage / "metrics.jsonl")[0]) == ["step", *names]


def test_a_step_that_does_not_rise_is_our_bug(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "sft") as log:
        log.log(3, {"loss": 1.0})
        with pytest.raises(AssertionError, match="step 3 after step 3"):
            log.log(3, {"loss": 1.0})


def test_steps_after_the_checkpoint_are_forgotten_on_resume(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "sft") as log:
        for step in range(1, 6):
            log.log(step, {"loss": float(step)})
    with MetricsLog(tmp_path / "sft") as log:
        log.truncate_after(3)
        log.log(4, {"loss": 40.0})
        log.log(5, {"loss": 50.0})
    assert steps_in(tmp_path / "sft") == [1, 2, 3, 4, 5]
    assert tensorboard_points(tmp_path / "sft", "loss") == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 40.0),
        (5, 50.0),
    ]


def test_kept_lines_keep_their_bytes_on_resume(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "sft") as log:
        log.log(1, {"loss": 1 / 3})
    before = (tmp_path / "sft" / "metrics.jsonl").read_bytes()
    with MetricsLog(tmp_path / "sft") as log:
        log.log(2, {"loss": 1.0})
        log.truncate_after(1)
    assert (tmp_path / "sft" / "metrics.jsonl").read_bytes() == before


def test_a_torn_last_line_is_left_out_by_readers_and_repaired_by_the_next_log(
    tmp_path: Path,
) -> None:
    stage = tmp_path / "rm"
    stage.mkdir()
    (stage / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert steps_in(stage) == [1]
    with MetricsLog(stage) as log:
        log.log(2, {"loss": 1.0})
    assert (stage / "metrics.jsonl").read_bytes() == (
        b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "not JSON"),
        ("[1]", "not a JSON object but list"),
        ('{"loss": 1.0}', "`step` is not a whole number: None"),
        ('{"step": 1, "loss": "high"}', "`loss` is not a number: 'high'"),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        read_metrics(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert reason in str(caught.value)


def test_wandb_is_left_alone_unless_a_project_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with MetricsLog(tmp_path / "sft") as log:
        log.log(1, {"loss": 1.0})
    assert not (tmp_path / "sft" / "wandb").exists()


def test_wandb_gets_the_metrics_when_a_project_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is an optional extra")
    monkeypatch.setenv("WANDB_PROJECT", "align-test")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with MetricsLog(tmp_path / "sft") as log:
        log.log(1, {"loss": 1.0})
    assert list((tmp_path / "sft" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_reading_metrics_needs_neither_torch_nor_tensorboard() -> None:
    code = "import sys, align.pipeline.metrics; print({'torch', 'tensorboard'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr
