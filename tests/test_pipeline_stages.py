"""The three stages end to end on the tiny config: real DeepSpeed, real Ray, real models."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from align.pipeline.results import Summary, read_result

STAGES = ("sft", "rm", "ppo")
Finished = Callable[..., str]
Timeless = Callable[[Path, str], list[dict[str, float]]]
GOLDEN = Path(__file__).parent / "golden" / "tiny.json"

LOAD_WITHOUT_ALIGN = """
import sys
assert not any(name.split(".")[0] == "align" for name in sys.modules)
import torch
from transformers import (
    AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, logging
)
logging.disable_progress_bar()
run = sys.argv[1]
for stage in ("sft", "ppo"):
    tokenizer = AutoTokenizer.from_pretrained(f"{run}/{stage}/final")
    model = AutoModelForCausalLM.from_pretrained(f"{run}/{stage}/final")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Write a story."}], add_generation_prompt=True,
        return_tensors="pt", return_dict=True)
    assert model.generate(**prompt, max_new_tokens=4).shape[1] > prompt["input_ids"].shape[1]
reward = AutoModelForSequenceClassification.from_pretrained(f"{run}/rm/final")
assert reward(**prompt).logits.shape == (1, 1)
print("loaded")
"""


def test_all_stages_leave_what_the_user_is_promised(tiny_run: Path, timeless: Timeless) -> None:
    for stage in STAGES:
        assert (tiny_run / stage / "final" / "model.safetensors").is_file()
        assert (tiny_run / stage / "final" / "README.md").is_file()
        assert list((tiny_run / stage / "tensorboard").iterdir())
        steps = [row["step"] for row in timeless(tiny_run, stage)]
        assert steps == list(range(1, len(steps) + 1))
    assert (tiny_run / "rm" / "pairs.parquet").is_file()
    assert (tiny_run / "report.html").stat().st_size > 20_000
    summary = read_result(tiny_run / "summary.json", Summary)
    assert summary.rm_accuracy is not None and 0 <= summary.rm_accuracy <= 1
    assert summary.win_rate is not None and 0 <= summary.win_rate <= 1
    assert set(summary.seconds) >= {"sft", "rm", "ppo", "total"}


def test_nothing_half_written_is_left_behind(tiny_run: Path) -> None:
    leftovers = [path for path in tiny_run.rglob("*") if ".writing" in path.name]
    assert leftovers == []


def test_the_models_load_with_stock_classes_and_nothing_of_ours(
    tiny_run: Path, tmp_path: Path
) -> None:
    script = tmp_path / "load.py"
    script.write_text(LOAD_WITHOUT_ALIGN, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(tiny_run)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout == "loaded\n", done.stderr


def test_sft_learns_the_answers(tiny_run: Path, timeless: Timeless) -> None:
    losses = [row["loss"] for row in timeless(tiny_run, "sft")]
    assert losses[-1] < losses[0] - 0.5


def test_the_first_ppo_step_starts_at_the_reference(tiny_run: Path, timeless: Timeless) -> None:
    first, *_ = timeless(tiny_run, "ppo")
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert first["objective/non_score_reward"] == pytest.approx(0, abs=1e-5)


def test_every_pair_says_where_it_came_from(tiny_run: Path) -> None:
    from align.reward.pairs_file import read_pairs

    pairs = read_pairs(tiny_run / "rm" / "pairs.parquet")
    raw = [
        json.loads(line)
        for file in (tiny_run / "rm" / "feedback").glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    known = {record["feedback_id"] for record in raw}
    assert {record["kind"] for record in raw} == {"ranking", "comparison", "question", "rule"}
    assert {pair["feedback_kind"] for pair in pairs} == {record["kind"] for record in raw}
    assert all(set(pair["feedback_ids"]) <= known for pair in pairs)


def test_a_finished_run_says_so_and_exits_0(tiny_run: Path, finished: Finished) -> None:
    printed = finished("run", "--config", "tiny", "--run-dir", str(tiny_run))
    assert all(f"{stage} is finished" in printed for stage in STAGES)


def test_a_used_directory_is_refused_where_resuming_is_not_wanted(
    tiny_run: Path, finished: Finished
) -> None:
    printed = finished(
        "run", "--config", "tiny", "--run-dir", str(tiny_run), "--resume", "never", code=2
    )
    assert printed.startswith(f"align: {tiny_run} holds a run") and printed.count("\n") == 1


def test_a_used_directory_is_refused_to_another_config(tiny_run: Path, finished: Finished) -> None:
    printed = finished(
        "run", "--config", "tiny", "--run-dir", str(tiny_run), "--set", "ppo.kl_coef=0.3", code=2
    )
    assert "ppo.kl_coef: 0.05 then, 0.3 now" in printed and printed.count("\n") == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_can_be_evaluated_again_from_its_files(
    tiny_run: Path, finished: Finished, stage: str
) -> None:
    before = read_result(tiny_run / "summary.json", Summary)
    assert f"{stage}: " in finished("eval", "--stage", stage, str(tiny_run))
    after = read_result(tiny_run / "summary.json", Summary)
    assert after.rm_accuracy == pytest.approx(before.rm_accuracy)
    assert after.win_rate == pytest.approx(before.win_rate)
    assert after.kl == pytest.approx(before.kl, abs=1e-3)


def test_the_tiny_run_equals_the_recorded_one(tiny_run: Path, timeless: Timeless) -> None:
    """Within 1e-3: another processor rounds differently. `ALIGN_RECORD=1` records it anew."""
    rows = {stage: timeless(tiny_run, stage) for stage in STAGES}
    if os.environ.get("ALIGN_RECORD"):
        GOLDEN.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for stage in STAGES:
        assert len(rows[stage]) == len(golden[stage])
        for row, recorded in zip(rows[stage], golden[stage], strict=True):
            assert row == pytest.approx(recorded, rel=1e-3, abs=1e-4)
