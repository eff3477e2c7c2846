"""What PPO carries beside the weights of its engines survives a stop, for real."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

CARRIED = (
    "ppo.kl_target=6",
    "ppo.kl_horizon=100",
    "ppo.scale_scores=true",
    "ppo.ema_decay=0.5",
    "ppo.ptx_coef=0.5",
    "train.save_every=1",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [(), ("model.lora={r: 4}",), ("model.lora={r: 4}", "ppo.critic=trunk"), ("ppo.critic=trunk",)],
    ids=["whole", "adapters", "adapters-trunk", "whole-trunk"],
)
def test_what_ppo_adapts_goes_on_bit_by_bit(
    more: tuple[str, ...],
    tiny_run: Path,
    tmp_path: Path,
    finished: Callable[..., str],
    timeless: Callable[[Path, str], list[dict[str, float]]],
) -> None:
    """verl#2653: the KL coefficient began again; OpenRLHF: the averaged weights did."""
    models = (
        f"ppo.policy={tiny_run / 'sft' / 'final'}",
        f"ppo.reward_model={tiny_run / 'rm' / 'final'}",
    )
    overrides = [word for one in (*models, *CARRIED, *more) for word in ("--set", one)]

    def run(folder: Path) -> None:
        command = ("run", "--config", "tiny", "--stage", "ppo", "--run-dir", str(folder))
        finished(*command, *overrides)

    through, stopped = tmp_path / "through", tmp_path / "stopped"
    run(through)
    shutil.copytree(through, stopped)
    shutil.rmtree(stopped / "ppo" / "final")
    shutil.rmtree(stopped / "ppo" / "checkpoints" / "step-00000002")
    run(stopped)
    rows = timeless(through, "ppo")
    assert rows == timeless(stopped, "ppo")
    assert rows[0]["kl_coef"] != rows[1]["kl_coef"]
    weights = [folder / "ppo" / "final" / "model.safetensors" for folder in (through, stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
