"""The report shows what a run directory holds, and survives whatever is missing or broken."""

import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from align.data.errors import UserError
from align.pipeline.metrics import MetricsLog
from align.pipeline.report import write_report
from align.pipeline.report_stages import instruction_section

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> & \u202eright to left\u202c שלום'
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text("utf-8"))
    page.close()
    assert page.open == []
    return page


def write_run(run_dir: Path, steps: int = 120, seed: int = 0) -> Path:
    """A run directory as the stages leave it, with numbers as they usually look."""
    draw = random.Random(seed).gauss
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text("name: demo\nseed: 1\nppo:\n  kl_coef: 0.05\n")
    write_metrics(run_dir, "sft", steps, lambda t: sft_metrics(t, draw))
    write_metrics(run_dir, "rm", steps // 2, lambda t: reward_metrics(t, draw))
    write_metrics(run_dir, "ppo", steps // 2, lambda t: policy_metrics(t, draw))
    write_samples(run_dir)
    write_json(run_dir / "rm" / "evaluation.json", reward_evaluation())
    write_json(run_dir / "ppo" / "evaluation.json", policy_evaluation())
    seconds = {"sft": 41.2, "rm": 38.0, "ppo": 165.4, "total": 251.0}
    numbers = {"rm_accuracy": 0.744, "win_rate": 0.885, "kl": 6.31, "distinct2_ratio": 0.84}
    write_json(run_dir / "summary.json", {**numbers, "seconds": seconds})
    return run_dir


def write_small_run(run_dir: Path) -> Path:
    """Every stage, and one plot for each of them."""
    for stage in ("sft", "rm", "ppo"):
        name = "objective/kl" if stage == "ppo" else "loss"
        write_metrics(run_dir, stage, 2, partial(one_metric, name))
    return run_dir


def write_metrics(
    run_dir: Path, stage: str, steps: int, metrics: Callable[[float], dict[str, float]]
) -> None:
    with MetricsLog(run_dir / stage) as log:
        for step in range(1, steps + 1):
            row = metrics(step / steps)
            held_out = {"sft": "token_accuracy", "rm": "accuracy"}.get(stage, "none")
            if held_out in row and step % max(steps // 5, 1) == 0:
                row |= {"eval/loss": row["loss"] + 0.08, f"eval/{held_out}": row[held_out] - 0.03}
            log.log(step, row)


def one_metric(name: str, t: float) -> dict[str, float]:
    return {name: t}


def sft_metrics(t: float, draw: Callable[[float, float], float]) -> dict[str, float]:
    loss = 1.3 + 2.1 * math.exp(-4 * t) + draw(0, 0.05)
    return {"loss": loss, "token_accuracy": 1 - loss / 4, "lr": 1e-3 * (1 - t), "grad_norm": 1.0}


def reward_metrics(t: float, draw: Callable[[float, float], float]) -> dict[str, float]:
    loss = 0.69 - 0.16 * t + draw(0, 0.03)
    return {"loss": loss, "accuracy": min(1.0, 0.5 + 0.25 * t + draw(0, 0.04)), "margin": t}


def policy_metrics(t: float, draw: Callable[[float, float], float]) -> dict[str, float]:
    score, kl = -0.6 + 2.2 * t**0.7 + draw(0, 0.1), 6.5 * t + abs(draw(0, 0.2))
    return {
        "loss": 0.1,
        "objective/scores": score,
        "objective/kl": kl,
        "objective/rlhf_reward": score - 0.05 * kl,
        "objective/entropy": 2.4 - 0.9 * t + draw(0, 0.05),
        "policy/clipfrac": 0.08 + draw(0, 0.01),
        "val/clipfrac": 0.03 + draw(0, 0.005),
        "val/explained_variance": 0.9 * t**0.5 - 0.2 + draw(0, 0.05),
        "answer/length": 38 + 12 * t + draw(0, 2),
        "answer/eos_rate": 0.8 + 0.15 * t,
        "answer/distinct2": 0.9 - 0.1 * t,
        "time/rollout": 1.4 + draw(0, 0.1),
        "time/score": 0.3 + draw(0, 0.02),
        "time/update": 0.9 + draw(0, 0.05),
        "time/sync": 0.1,
    }


def write_samples(run_dir: Path) -> None:
    story = "Once upon a time a small fox found a red kite.\nIt flew home before dark."
    for stage in ("sft", "ppo"):
        rows = [
            {"step": step, "prompt": "Tell a story.", "answer": story, "score": score}
            for step, score in ((50, None), (100, 0.52))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (run_dir / stage / "samples.jsonl").write_text(lines)


def reward_evaluation() -> dict[str, Any]:
    kinds = {"ranking": (310, 0.78), "elo": (240, 0.73), "questions": (80, 0.7), "rules": (45, 0.8)}
    by_kind = {
        name: {"n": n, "accuracy": share, "low": share - 1 / n**0.5, "high": share + 0.9 / n**0.5}
        for name, (n, share) in kinds.items()
    }
    bins = [(0.54, 0.55, 180), (0.65, 0.61, 170), (0.75, 0.72, 150), (0.86, 0.83, 110)]
    calibration = [{"confidence": c, "accuracy": a, "n": n} for c, a, n in bins]
    return {
        "accuracy": 0.744,
        "log_loss": 0.53,
        "ece": 0.021,
        "by_kind": by_kind,
        "against_taste": {"n": 190, "accuracy": 0.81, "low": 0.75, "high": 0.86},
        "calibration": calibration,
        "by_criterion": {"overall": by_kind["ranking"], "honest": by_kind["rules"]},
        "by_length": {"chosen longer": by_kind["ranking"]},
        "risk_coverage": [{"coverage": 0.7, "risk": 0.18}, {"coverage": 1.0, "risk": 0.256}],
        "length_bias": {"n": 600, "longer_chosen": 0.55, "longer_scored": 0.71},
        "best_of_n": [
            {"n": n, "kl": math.log(n) - 1 + 1 / n, "proxy": n, "gold": gold}
            for n, gold in ((1, 0.1), (4, 0.9), (16, 0.4))
        ],
    }


def policy_evaluation() -> dict[str, Any]:
    sample = {
        "prompt": "Write about a dog who is afraid of the sea.",
        "base": "The dog the dog was was and the sea sea.",
        "sft": "A dog lived by the sea. He was afraid. He went home.",
        "ppo": "A happy little dog lived by the sea. One day he was brave and swam!",
        "sft_reward": -0.31,
        "ppo_reward": 1.62,
    }
    hostile = sample | {"prompt": HOSTILE, "base": "\x00" + HOSTILE, "ppo": "x" * 9000}
    return {
        "win_rate": 0.885,
        "kl": 6.31,
        "distinct2_ratio": 0.84,
        "reward_before": -0.4,
        "reward_after": 1.5,
        "samples": [sample, hostile],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    return read(write_report(run_dir))


def test_the_report_lies_in_the_run_directory(run_dir: Path) -> None:
    assert write_report(run_dir) == run_dir / "report.html"
    assert not list(run_dir.glob("*.tmp"))


def test_the_headline_numbers_are_those_of_the_summary(page: Page) -> None:
    for number in ("74.4 %", "88.5 %", "6.31", "84.0 %", "4:11", "sft\N{NO-BREAK SPACE}0:41"):
        assert number in page.text


def test_a_whole_run_has_every_plot_and_says_what_one_sees(page: Page) -> None:
    figures = [attributes for tag, attributes in page.tags if tag == "svg"]
    # 2 of SFT; loss, accuracy, kinds, calibration; path, 7 curves, time
    assert len(figures) == 2 + 7 + 9
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)
    assert re.search(r"Loss fell from 3\.\d+ to 1\.\d+", page.text)
    assert re.search(r"Reward rose from \S+ to \S+ while KL rose", page.text)
    assert "By feedback kind: right on 80% of rules, 70% of questions" in page.text
    assert "About as sure as it is right: calibration error 0.021" in page.text
    assert "most of it rollout" in page.text
    assert "n = 310" in page.text
    assert "Right on 81.0% of 190 pairs by the taste" in page.text
    assert "Over-optimised: the best of 4 is better than the best of 16" in page.text
    assert "wrong 26% of the time, on the surest 70% of them 18%" in page.text
    assert "Scores the longer answer higher in 71.0% of 600 pairs" in page.text
    assert "Mean reward on held-out prompts: -0.40 before PPO, 1.50 after it." in page.text


def test_sources_of_instructions_have_held_out_curves_of_their_own(tmp_path: Path) -> None:
    losses = {"loss": 2.0, "eval/loss": 1.5, "eval/loss/en": 1.0, "eval/loss/zh": 2.0}
    write_metrics(tmp_path, "sft", 3, lambda t: {name: x - t for name, x in losses.items()})
    by_source = instruction_section(tmp_path).plots[-1]
    assert by_source.title.startswith("Held-out loss") and ">zh<" in by_source.svg


def test_the_page_needs_nothing_from_outside_and_is_small(run_dir: Path, page: Page) -> None:
    size = (run_dir / "report.html").stat().st_size
    assert size < 1_500_000
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe"}
        link = attributes.get("href") or attributes.get("xlink:href") or attributes.get("src")
        assert link is None or link.startswith("#"), link


def test_ids_on_the_page_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_plots_take_their_colours_from_the_page(run_dir: Path) -> None:
    svgs = re.findall(r"<svg.*?</svg>", (run_dir / "report.html").read_text(), flags=re.DOTALL)
    assert svgs
    for svg in svgs:
        assert not re.search(r"(fill|stroke): #", svg)


def test_hostile_answers_are_shown_as_text(run_dir: Path, page: Page) -> None:
    assert "<script>alert(1)</script>" in page.text
    assert "<script" not in (run_dir / "report.html").read_text()
    answers = [attributes for tag, attributes in page.tags if tag == "dd" and "dir" in attributes]
    assert answers
    assert all(attributes["dir"] == "auto" for attributes in answers)  # also isolates overrides
    assert "␀" in page.text
    assert "… (7000 more characters)" in page.text


def test_samples_of_the_last_evaluation_are_shown(page: Page) -> None:
    assert page.text.count("Sample answers at step 100") == 2
    assert "Sample answers at step 50" not in page.text


def test_the_config_and_the_versions_are_there(page: Page) -> None:
    assert "kl_coef: 0.05" in page.text
    assert "transformers" in page.text


def test_an_empty_directory_gives_a_page_of_commands(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    run.mkdir()
    page = read(write_report(run))
    for stage in ("all", "sft", "rm", "ppo"):
        assert f"align run --stage {stage} --config FILE --run-dir '{run}'" in page.text


def test_a_run_without_ppo_says_which_command_makes_it(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    write_metrics(run, "sft", 1, lambda t: {"loss": 2.0})
    (run / "config.yaml").write_text("name: demo\n")
    page = read(write_report(run))
    assert "Loss stayed at 2" in page.text
    assert f"align run --stage ppo --config {run}/config.yaml --run-dir {run}" in page.text


def test_a_trained_stage_that_was_not_evaluated_names_align_eval(tmp_path: Path) -> None:
    (tmp_path / "rm" / "final").mkdir(parents=True)
    page = read(write_report(tmp_path))
    assert f"align eval --stage rm {tmp_path}" in page.text


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("sft/metrics.jsonl", b"", "has no complete line yet"),
        ("sft/metrics.jsonl", b"\xff\xfe\n", "metrics.jsonl:1: not JSON"),
        ("ppo/metrics.jsonl", b'{"step": 1, "loss": "low"}\n', "`loss` is not a number: 'low'"),
        ("ppo/metrics.jsonl", b'{"step": 1, "objective/kl": null}\n', "not finite at 1 of 1 steps"),
        ("rm/evaluation.json", b'{"accuracy": "high"}', "evaluation.json:1: accuracy: "),
        ("rm/evaluation.json", b"", "evaluation.json:1: Invalid JSON"),
        ("ppo/evaluation.json", b'{"samples": [{"prompt": 3}]}', "samples.0.prompt: "),
        ("ppo/samples.jsonl", b'{"step": 1}\n', "samples.jsonl:1: prompt: "),
        ("summary.json", b'{"kl": []}', "summary.json:1: kl: "),
        ("config.yaml", b"name: \xff\n", "name: �"),
    ],
)
def test_a_broken_file_is_one_line_and_the_rest_is_shown(
    tmp_path: Path, file: str, content: bytes, said: str
) -> None:
    run = write_small_run(tmp_path / "demo")
    (run / file).write_bytes(content)
    page = read(write_report(run))
    assert said in page.text
    assert any(tag == "svg" for tag, _ in page.tags)


def test_long_runs_stay_small(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "demo", steps=3000))
    assert path.stat().st_size < 1_500_000


def test_a_missing_run_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        write_report(tmp_path / "nowhere")


def test_the_report_does_without_torch() -> None:
    code = "import sys, align.pipeline.report; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
