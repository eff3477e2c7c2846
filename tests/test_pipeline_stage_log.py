"""What a stage tells while it works."""

from pathlib import Path

import pytest

from align.pipeline.results import read_samples
from align.pipeline.stage_log import StageLog

pytestmark = pytest.mark.usefixtures("one_rank")


def test_a_resumed_stage_forgets_the_answers_of_steps_that_it_does_again(tmp_path: Path) -> None:
    stage = tmp_path / "ppo"
    with StageLog(stage, "ppo", total=6) as log:
        for step in (2, 4, 6):
            log.samples(step, [("Who?", f"Ann 春 {step}", 0.5), ("Why?", "Because.", None)])
    with (stage / "samples.jsonl").open("a") as file:
        file.write('{"step": 8, "pro')  # cut off by a crash
    with StageLog(stage, "ppo", total=6, start=4) as log:
        log.samples(6, [("Who?", "Bob", float("nan"))])
    found = [(row.step, row.answer, row.score) for row in read_samples(stage / "samples.jsonl")]
    assert found == [
        (2, "Ann 春 2", 0.5),
        (2, "Because.", None),
        (4, "Ann 春 4", 0.5),
        (4, "Because.", None),
        (6, "Bob", None),
    ]
