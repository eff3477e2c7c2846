"""Checkpoints: one folder a step, published whole, read back by parameter name.

    STAGE/checkpoints/step-00000100/{ENGINE.safetensors, MANIFEST.json}

Weights and Adam moments are stored by parameter name, so any ZeRO stage and number of ranks can
read them, and nothing is ever unpickled. Everything else that shapes the future (data order,
sampling noise, learning rate) is a pure function of the config and the step.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.data.errors import UserError
from align.pipeline import ranks, stopping
from align.pipeline.engine import gathered
from align.pipeline.progress import note
from align.pipeline.run_directory import published, write_json

MANIFEST = "MANIFEST.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
KEPT = 2
"""Published checkpoints of a stage that stay on disk."""

Engines = Mapping[str, Any]
"""DeepSpeed engines by name."""


class Checkpoints:
    """The checkpoints of one stage: where to begin, and when to save."""

    def __init__(self, stage: Path, save_every: int, resume: str) -> None:
        self.stage = stage
        self._folder = stage / "checkpoints"
        self._save_every = save_every
        self._found = newest(self._folder, resume)

    @property
    def steps_done(self) -> int:
        """Steps that the checkpoint to go on from has behind it; 0 without one."""
        return self._found.step if self._found else 0

    def restore(self, engines: Engines) -> None:
        """Bring fresh engines to that checkpoint, if there is one."""
        if self._found:
            restore(self._found, engines)
            if ranks.is_main():
                note(f"going on after step {self._found.step}: {self._found.path}")

    def after(self, step: int, engines: Engines) -> None:
        """Save after a step if it is due, or if the run is to stop: then raise Stop."""
        stop = any(ranks.gather(stopping.requested()))
        if stop or (self._save_every and step % self._save_every == 0):
            save(self._folder, step, engines)
        if stop:
            raise stopping.Stop


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    step: int


def save(folder: Path, step: int, engines: Engines) -> None:
    """Publish a checkpoint after `step` steps and delete those it makes superfluous."""
    states = {name: _state_of(engine) for name, engine in engines.items()}
    if ranks.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        final = folder / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        with published(final) as draft:
            for name, state in states.items():
                save_file(state, draft / f"{name}.safetensors")
            write_json(draft / MANIFEST, {"step": step, "files": _files(draft)})
        for old in sorted(folder.glob("step-*[0-9]"))[:-KEPT]:
            shutil.rmtree(old)
    ranks.barrier()


def newest(folder: Path, resume: str) -> Checkpoint | None:
    """The checkpoint to go on from: the newest whole one, or the one that `resume` names."""
    if resume not in ("auto", "never") and Path(resume).parent == folder:
        return ranks.on_main(lambda: _verified(Path(resume)))
    return ranks.on_main(lambda: _newest(folder))


def restore(checkpoint: Checkpoint, engines: Engines) -> None:
    """Set weights and optimisers to what they were."""
    for name, engine in engines.items():
        state = load_file(checkpoint.path / f"{name}.safetensors")
        for parameter_name, parameter in _trainable(engine):
            _set(engine, parameter, {k: state[f"{k}/{parameter_name}"] for k in _PARTS})
        _set_adam_step(engine, float(state["adam_step"]))


_PARTS = ("weight", *MOMENTS)


def _newest(folder: Path) -> Checkpoint | None:
    for path in sorted(folder.glob("step-*[0-9]"), reverse=True):
        try:
            return _verified(path)
        except UserError as error:
            note(f"checkpoint skipped: {error}")
    return None


def _verified(path: Path) -> Checkpoint:
    """The checkpoint at a path, or a UserError that says what is wrong with it."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        step, files = int(manifest["step"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no whole {MANIFEST} ({error})") from error
    for name, expected in files.items():
        if not (path / name).is_file() or _digest(path / name) != expected:
            raise UserError(f"{path / name}: missing or not what was saved")
    return Checkpoint(path, step)


def _files(folder: Path) -> dict[str, str]:
    return {file.name: _digest(file) for file in sorted(folder.iterdir())}


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _trainable(engine: Any) -> list[tuple[str, Any]]:
    return [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]


def _state_of(engine: Any) -> dict[str, Tensor]:
    """Weights and moments, whole, on the CPU; every rank takes part under ZeRO."""
    state: dict[str, Tensor] = {"adam_step": torch.tensor(_adam_step(engine))}
    for name, parameter in _trainable(engine):
        for part, tensor in _get(engine, parameter).items():
            state[f"{part}/{name}"] = tensor.detach().to("cpu", torch.float32, copy=True)
    return state


def _get(engine: Any, parameter: Any) -> dict[str, Tensor]:
    if not engine.zero_optimization():
        moments = engine.optimizer.state[parameter]
        return {"weight": parameter} | {name: moments[name] for name in MOMENTS}
    return {"weight": safe_get_full_fp32_param(parameter)} | {
        name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS
    }


def _set(engine: Any, parameter: Any, state: dict[str, Tensor]) -> None:
    state = {name: tensor.to(engine.device) for name, tensor in state.items()}
    with torch.no_grad():
        if not engine.zero_optimization():
            parameter.copy_(state["weight"])
            # Plain AdamW makes its state in the first step, so it has none yet.
            engine.optimizer.state[parameter] = {name: state[name].clone() for name in MOMENTS} | {
                "step": torch.tensor(0.0)
            }
            return
        with gathered(parameter, modified=True):
            parameter.copy_(state["weight"])
        safe_set_full_fp32_param(parameter, state["weight"])
        for name in MOMENTS:
            safe_set_full_optimizer_state(parameter, state[name], name)


def _adam_states(engine: Any) -> list[dict[str, Any]]:
    optimizer = engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer
    return [state for state in optimizer.state.values() if "step" in state]


def _adam_step(engine: Any) -> float:
    """Adam's own count of steps, which its bias correction needs."""
    return float(_adam_states(engine)[0]["step"])


def _set_adam_step(engine: Any, step: float) -> None:
    for state in _adam_states(engine):
        state["step"] = torch.tensor(step)
