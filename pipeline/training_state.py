"""What an optimiser's engine must remember, by parameter name, in shards that any engine can read.

DeepSpeed's own checkpoints are pickles and fit one ZeRO stage and one number of ranks. Here every
parameter and its two Adam moments are gathered whole, one parameter at a time, and each rank keeps
and writes its share of them as safetensors. Any ZeRO stage and any number of ranks can take them
up, and nothing is ever unpickled.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from align.pipeline import ranks
from align.pipeline.accelerator import deepspeed
from align.pipeline.engine import gathered

MOMENTS = ("exp_avg", "exp_avg_sq")
PARTS = ("weight", *MOMENTS)
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What DeepSpeed's fp16 loss scaler remembers between steps."""

ZERO_3 = deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3
BF16_ZERO_1 = deepspeed.runtime.bf16_optimizer.BF16_Optimizer

STAGE = "stage"
"""What a stage itself carries from step to step lies under this name, beside the engines."""

Engines = Mapping[str, Any]
"""DeepSpeed engines by name."""


def shares_of(engines: Engines, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """File name -> what this rank writes, in memory of its own: training goes on meanwhile.

    That is its share of every engine, and the stage's own tensors, of which it has some. Every rank
    calls this.
    """
    ending = f"{ranks.rank():05d}-of-{ranks.world_size():05d}.safetensors"
    shares = {f"{name}-{ending}": _gathered_share(engine) for name, engine in engines.items()}
    if tensors:
        own = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        shares[f"{STAGE}-{ending}"] = own
    return shares


def _gathered_share(engine: Any) -> dict[str, Tensor]:
    """What this rank writes, whole and on the CPU; all ranks take part in gathering."""
    share = {}
    for (name, parameter), owner in zip(_trainable(engine), _owners(engine), strict=True):
        for part, tensor in _get(engine, parameter).items():
            if owner == ranks.rank():
                whole = tensor.detach().to("cpu", torch.float32, copy=True)
                share[f"{part}/{name}"] = whole
    return share


def scalars_of(engines: Engines) -> dict[str, dict[str, float]]:
    """The few numbers beside the tensors: Adam's count of steps, and the fp16 loss scale."""
    return {
        name: {"adam_step": _adam_step(engine)} | _scaler_state(engine)
        for name, engine in engines.items()
    }


def restore(
    files: Sequence[Path], engines: Engines, scalars: Mapping[str, Mapping[str, float]]
) -> None:
    """Set weights and optimisers to what `shares_of` saw, whoever wrote these files."""
    for name, engine in engines.items():
        _make_moments(engine)
        with _opened(_of_engine(name, files)) as shards:
            for parameter_name, parameter in _trainable(engine):
                _set(
                    engine,
                    parameter,
                    {part: _read(shards, f"{part}/{parameter_name}") for part in PARTS},
                )
        _set_adam_step(engine, scalars[name]["adam_step"])
        _set_scaler(engine, scalars[name])


def restore_tensors(files: Sequence[Path], tensors: Mapping[str, Tensor]) -> None:
    """Set the stage's own tensors, whichever rank wrote them."""
    with _opened(_of_engine(STAGE, files)) as shards:
        for name, tensor in tensors.items():
            tensor.copy_(_read(shards, name))


def restore_weights(files: Sequence[Path], models: Mapping[str, nn.Module]) -> None:
    """Set the trainable weights of models that have no engine, hence no optimiser."""
    for name, model in models.items():
        with _opened(_of_engine(name, files)) as shards, torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(_read(shards, f"weight/{parameter_name}"))


def _of_engine(name: str, files: Sequence[Path]) -> list[Path]:
    return [file for file in files if file.name.startswith(f"{name}-")]


def _owners(engine: Any) -> list[int]:
    """The rank that writes each parameter, so that all write about the same number of bytes."""
    loads = [0] * ranks.world_size()
    owners = []
    for _, parameter in _trainable(engine):
        owners.append(loads.index(min(loads)))
        # Under ZeRO 3 a parameter is empty until it is gathered, and knows its size.
        loads[owners[-1]] += max(parameter.numel(), getattr(parameter, "ds_numel", 0))
    return owners


@contextmanager
def _opened(files: list[Path]) -> Iterator[dict[str, Any]]:
    """Tensor name -> the open file that holds it; tensors are read one at a time."""
    with ExitStack() as stack:
        where: dict[str, Any] = {}
        for file in files:
            handle: Any = stack.enter_context(safe_open(file, framework="pt"))
            where |= dict.fromkeys(handle.keys(), handle)
        yield where


def _read(shards: Mapping[str, Any], name: str) -> Tensor:
    tensor: Tensor = shards[name].get_tensor(name)
    return tensor


def _trainable(engine: Any) -> list[tuple[str, Any]]:
    return [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]


def _get(engine: Any, parameter: Any) -> dict[str, Tensor]:
    if not engine.zero_optimization():
        moments = engine.optimizer.state[parameter]
        return {"weight": parameter} | {name: moments[name] for name in MOMENTS}
    return {"weight": deepspeed.utils.safe_get_full_fp32_param(parameter)} | {
        name: deepspeed.utils.safe_get_full_optimizer_state(parameter, name) for name in MOMENTS
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
        deepspeed.utils.safe_set_full_fp32_param(parameter, state["weight"])
        for name in MOMENTS:
            deepspeed.utils.safe_set_full_optimizer_state(parameter, state[name], name)


def _make_moments(engine: Any) -> None:
    """ZeRO makes Adam's moments in its first step and only then links them to the parameters.

    There is no public way to have them earlier (`safe_set_full_optimizer_state` fails without).
    """
    if not engine.zero_optimization():
        return
    zero = engine.optimizer
    for flat in _flat_parameters(zero):
        if not zero.optimizer.state[flat]:
            zero.optimizer.state[flat] = {name: torch.zeros_like(flat) for name in MOMENTS} | {
                "step": torch.tensor(0.0)
            }
    if not isinstance(zero, ZERO_3):
        zero._lazy_init_hp_params_optimizer_state()


def _flat_parameters(zero: Any) -> list[Tensor]:
    """This rank's part of the fp32 weights, as the optimiser inside ZeRO sees them."""
    if isinstance(zero, ZERO_3):
        flat: list[Tensor] = zero.fp32_partitioned_groups_flat
    elif isinstance(zero, BF16_ZERO_1):
        flat = zero.fp32_groups_flat_partition
    else:
        flat = zero.single_partition_of_fp32_groups
    return flat


def _adam_states(engine: Any) -> list[dict[str, Any]]:
    optimizer = engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer
    return [state for state in optimizer.state.values() if "step" in state]


def _adam_step(engine: Any) -> float:
    """Adam's own count of steps, which its bias correction needs."""
    return float(_adam_states(engine)[0]["step"])


def _set_adam_step(engine: Any, step: float) -> None:
    for state in _adam_states(engine):
        state["step"] = torch.tensor(step)


def _scaler_state(engine: Any) -> dict[str, float]:
    if not engine.fp16_enabled():
        return {}
    return {name: float(getattr(engine.optimizer.loss_scaler, name)) for name in SCALER}


def _set_scaler(engine: Any, scalars: Mapping[str, float]) -> None:
    if engine.fp16_enabled():
        for name in SCALER:
            kind = float if name == "cur_scale" else int
            setattr(engine.optimizer.loss_scaler, name, kind(scalars[name]))
