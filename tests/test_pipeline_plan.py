"""`align plan`: does it fit, and what makes it fit."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.pipeline.config import RunConfig
from align.pipeline.loading import load_config
from align.pipeline.plan import GIB, make_plan, what_helps
from align.pipeline.plan_text import describe


def config(path: str = "Qwen/Qwen2.5-7B", **sections: Any) -> RunConfig:
    """A run on GPUs of a node, unless the sections say otherwise."""
    cluster = {"gpus_per_node": 8, "rollout_gpus": 0} | sections.pop("cluster", {})
    train = {"ranks": 8, "precision": "bf16"} | sections.pop("train", {})
    common = {"name": "some", "model": {"path": path}, "train": train, "cluster": cluster}
    return RunConfig.model_validate(common | sections)


def test_a_policy_of_7_billion_at_zero_3_needs_what_a_hand_counts() -> None:
    """18 bytes a parameter over 8 ranks for policy and critic, and 2 for each frozen model."""
    plan = make_plan(config(train={"zero_stage": 3}))
    policy, critic = 7.6156e9, 7.0707e9  # the critic has no output embedding
    parts = plan.stages["ppo"]
    live = 2 * 10**9  # bytes of gathered weights, for each of four models
    assert parts["weights"] == pytest.approx(2 * (policy + critic) / 8 + 2 * live, rel=1e-3)
    assert parts["gradients"] == pytest.approx(2 * (policy + critic) / 8, rel=1e-3)
    assert parts["optimiser"] == pytest.approx(12 * (policy + critic) / 8, rel=1e-3)
    assert parts["frozen models"] == pytest.approx(2 * (policy + critic) / 8 + 2 * live, rel=1e-3)


def test_with_adapters_the_base_is_the_reference_and_has_no_optimiser() -> None:
    lora = {"path": "Qwen/Qwen2.5-7B", "lora": {"r": 16}}
    plan = make_plan(config(model=lora, train={"zero_stage": 2}))
    whole = make_plan(config(train={"zero_stage": 2}))
    ppo = plan.stages["ppo"]
    assert ppo["frozen models"] < 0.55 * whole.stages["ppo"]["frozen models"]
    assert ppo["optimiser"] < 0.02 * whole.stages["ppo"]["optimiser"]


def test_workers_that_share_a_gpu_count_with_its_rank() -> None:
    shared = make_plan(config(rollout={"workers": 16}))
    apart = make_plan(config(rollout={"workers": 16}, cluster={"rollout_gpus": 2, "nodes": 2}))
    worker = sum(shared.worker.values())
    [(needed, _)] = shared.places.values()
    assert needed == pytest.approx(shared.rank + 2 * worker)
    assert [needed for needed, _ in apart.places.values()] == pytest.approx(
        [apart.rank, 8 * worker]
    )


def test_on_cpus_all_processes_of_a_machine_share_its_memory() -> None:
    plan = make_plan(
        config(
            "embedded",
            train={"ranks": 4, "precision": "fp32"},
            cluster={"gpus_per_node": 0, "nodes": 2, "node_memory": 3.0},
        )
    )
    [(needed, there)] = plan.places.values()
    assert needed == pytest.approx(2 * plan.rank + sum(plan.worker.values()))
    assert there == 3 * GIB and plan.fits


def test_what_helps_is_as_little_as_fits() -> None:
    plan = make_plan(config())
    assert not plan.fits
    helped = what_helps(plan)
    assert helped
    changes, better = helped
    assert better.fits and "train.zero_stage" in changes
    assert "model.lora" not in changes  # the last resort


def test_a_policy_that_no_gpu_holds_is_beyond_help() -> None:
    plan = make_plan(config("meta-llama/Llama-3.1-70B", train={"zero_stage": 3}))
    assert what_helps(plan) is None
    assert "nothing here makes it fit" in describe(plan)


def test_the_advice_is_flags_that_work() -> None:
    """What is printed, given back to the command, fits."""
    given = ["cluster.gpus_per_node=8", "train.ranks=8", "cluster.rollout_gpus=0"]
    given += ["model.path=Qwen/Qwen2.5-7B", "cluster.gpu_memory=40"]
    printed = describe(make_plan(load_config("tiny", given)))
    advice = printed.rpartition("it fits with ")[2].partition(" (")[0]
    more = [word for word in shlex.split(advice) if word != "--set"]
    assert make_plan(load_config("tiny", given + more)).fits


def test_idle_gpus_are_told() -> None:
    assert "2 GPUs idle" in describe(make_plan(config(train={"ranks": 6}, sft={"batch_size": 6})))


@pytest.mark.parametrize(("gpu_memory", "code"), [(80, 0), (1, 2)])
def test_the_command_needs_no_torch_and_its_exit_code_is_the_answer(
    gpu_memory: float, code: int, tmp_path: Path
) -> None:
    program = (
        "import sys\nfrom align.pipeline.cli import main\ntry: main()\n"
        "finally: print('heavy:', {'torch', 'transformers', 'ray', 'numpy'} & {*sys.modules})"
    )
    flags = ["--set", "cluster.gpus_per_node=1", "--set", f"cluster.gpu_memory={gpu_memory}"]
    done = subprocess.run(
        [sys.executable, "-c", program, "plan", "--config", "tiny", *flags],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("heavy: set()\n")
    assert ("fits" if code == 0 else "too much") in done.stdout
