"""PPO whole with rollouts from vLLM, for real, on CPUs: `make test-vllm` runs these."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from align.policy.places import EMBEDDED

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="needs vLLM: `make test-vllm`"
)
STEPS = 3
SETTINGS = ["rollout.engine=vllm", "rollout.workers=1", f"ppo.steps={STEPS}", "ppo.eval_prompts=8"]

WATCHED = """
import json, sys
from align.pipeline import ppo_guards, rollouts
from align.pipeline.cli import main
from align.policy.workers import RolloutWorkers

gaps, sync = [], RolloutWorkers.sync

def check(gap, config):
    gaps.append(gap)
    ppo_guards.check_agreement(gap, config)

rollouts.check_agreement = check
if sys.argv.pop(1) == "skip":
    RolloutWorkers.sync = lambda self, packed, version: version or sync(self, packed, version)
try:
    main()
finally:
    print("gaps:", json.dumps(gaps))
"""
"""`align`, which also says how far sampler and trainer were apart at each step."""


def ppo(run: Path, reward: Path, syncs: str, *settings: str) -> tuple[int, str, list[float]]:
    """Exit code, what was printed, and nats by which a token's log-probabilities differed."""
    given = [*SETTINGS, f"ppo.policy={EMBEDDED}", f"ppo.reward_model={reward}", *settings]
    sets = [part for setting in given for part in ("--set", setting)]
    command = ["run", "--config", "tiny", "--stage", "ppo", "--run-dir", str(run), *sets]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, syncs, *command], capture_output=True, text=True
    )
    said = done.stdout.rpartition("gaps: ")[2].splitlines()[0]
    return done.returncode, done.stdout + done.stderr, json.loads(said)


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory, finished: Callable[..., str]) -> Path:
    """A reward model of the embedded model."""
    run: Path = tmp_path_factory.mktemp("runs") / "reward"
    given = ("--set", f"rm.model={EMBEDDED}")
    finished("run", "--config", "tiny", "--stage", "rm", "--run-dir", str(run), *given)
    return run / "rm" / "final"


@needs_vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("adapters", [(), ("model.lora={r: 4, alpha: 8}",)], ids=["full", "lora"])
def test_ppo_learns_from_what_vllm_writes(
    tmp_path: Path,
    reward: Path,
    timeless: Callable[..., list[dict[str, float]]],
    adapters: tuple[str, ...],
) -> None:
    code, printed, gaps = ppo(tmp_path / "run", reward, "sync", *adapters)
    assert code == 0, printed
    assert len(gaps) == STEPS and max(gaps) < 1e-4  # nats
    rows = timeless(tmp_path / "run", "ppo")
    drift = [row["objective/kl"] for row in rows]
    assert drift[0] == pytest.approx(0, abs=1e-6)
    assert max(map(abs, drift[1:])) > 1e-3
    assert all(row["val/ratio"] == pytest.approx(1, abs=0.2) for row in rows)
    assert (tmp_path / "run" / "ppo" / "final" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["kl"] is not None


@needs_vllm
@pytest.mark.timeout(900)
def test_a_sync_left_out_stops_ppo_at_the_next_step(tmp_path: Path, reward: Path) -> None:
    code, printed, gaps = ppo(tmp_path / "run", reward, "skip", "ppo.learning_rate=3e-3")
    assert code == 2
    assert len(gaps) == 2 and gaps[0] < 1e-4 < 1e-3 < gaps[1]
    assert "rollout workers and trainer disagree by" in printed


@pytest.mark.parametrize("key", ["top_k=50", "top_p=0.9"])
def test_what_ppo_could_not_score_is_refused(
    tmp_path: Path, finished: Callable[..., str], key: str
) -> None:
    arguments = ("--config", "tiny", "--run-dir", str(tmp_path / "run"), "--dry-run")
    sets = ("--set", "rollout.engine=vllm", "--set", f"rollout.{key}")
    printed = finished("run", *arguments, *sets, code=2)
    assert f"rollout.{key.partition('=')[0]}" in printed
