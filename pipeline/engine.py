"""DeepSpeed, one engine per optimiser. The only module that knows its configuration."""

import contextlib
import io
import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from align.data.errors import UserError
from align.pipeline import ranks
from align.pipeline.accelerator import deepspeed
from align.pipeline.config import TrainConfig
from align.pipeline.memory import BUCKET
from align.policy.model import cast_parameters

ADAM_EPSILON = 1e-5
"""As in the original RLHF code (Huang et al. 2024, arXiv:2403.17031, detail on Adam)."""


def zero_config(train: TrainConfig) -> dict[str, Any]:
    """The part of DeepSpeed's configuration that every stage shares."""
    zero: dict[str, Any] = {"stage": train.effective_zero_stage, "reduce_bucket_size": BUCKET}
    if train.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if train.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        "gradient_clipping": 0.0 if _is_plain(train) else train.max_grad_norm,
        # torch's AdamW also when offloading: DeepSpeed's own would be compiled first.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": train.precision == "bf16"},
        "fp16": {"enabled": train.precision == "fp16"},
        "steps_per_print": 10**9,
    }


def adamw(learning_rate: float, weight_decay: float) -> dict[str, Any]:
    """DeepSpeed's name for torch's AdamW."""
    return {
        "type": "AdamW",
        "params": {
            "lr": learning_rate,
            "betas": [0.9, 0.999],
            "eps": ADAM_EPSILON,
            "weight_decay": weight_decay,
            "torch_adam": True,
        },
    }


def schedule_factor(step: int, total: int, train: TrainConfig) -> float:
    """Share of the full learning rate at a step, counted from 0."""
    warmup = math.ceil(total * train.warmup)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    if train.schedule == "linear":
        return 1 - done
    if train.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


class Engine:
    """A model under one optimiser: forward, any number of backward passes, one step.

    Losses are sums already divided by the global token or pair count; DeepSpeed averages the
    gradients over the ranks, which `backward` undoes.
    """

    def __init__(
        self, model: nn.Module, learning_rate: float, total_steps: int, train: TrainConfig
    ) -> None:
        check_precision(train)
        if train.gradient_checkpointing:
            checkpoint_activations(model)
        self._learning_rate = learning_rate
        self._total_steps = total_steps
        self._train = train
        config = zero_config(train) | {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            # Micro-batches are ours to count: their number varies from step to step.
            "managed_gradient_accumulation": False,
            "optimizer": adamw(learning_rate, train.weight_decay),
        }
        trainable = [p for p in model.parameters() if p.requires_grad]
        with quiet():
            self.deepspeed, *_ = deepspeed.initialize(
                model=model, model_parameters=trainable, config=config
            )
        self._clip = clip_before_step(self.deepspeed, train)

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        device: torch.device = self.deepspeed.device
        return device

    @property
    def module(self) -> nn.Module:
        """The model inside."""
        module: nn.Module = self.deepspeed.module
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.deepspeed(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's share of the loss."""
        self.deepspeed.backward(loss * ranks.world_size(), scale_wrt_gas=False)

    def step(self, step: int) -> dict[str, float]:
        """Apply the accumulated gradient; `step` counts from 0 and sets the learning rate."""
        rate = self._learning_rate * schedule_factor(step, self._total_steps, self._train)
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate
        self.deepspeed.step()
        return {"lr": rate, "grad_norm": grad_norm(self.deepspeed, self._clip)}

    def parameters(self, *, trainable_only: bool) -> Iterator[tuple[str, Tensor]]:
        """Whole parameters by name, one at a time, gathered from all ranks under ZeRO 3.

        Every rank must exhaust the iterator.
        """
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad or not trainable_only:
                with gathered(parameter):
                    yield name, parameter.detach()


class Clip:
    """Clips the reduced gradient just before a plain optimiser steps, and keeps its norm."""

    def __init__(self, max_norm: float) -> None:
        self._max_norm = max_norm
        self.norm = 0.0

    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.norm = float(nn.utils.clip_grad_norm_(parameters, self._max_norm))


def clip_before_step(engine: Any, train: TrainConfig) -> Clip | None:
    """DeepSpeed clips by itself, but at ZeRO 0 in fp32 it does not tell the norm: then we do."""
    if not _is_plain(train):
        return None
    clip = Clip(train.max_grad_norm)
    engine.optimizer.register_step_pre_hook(clip)
    return clip


def grad_norm(engine: Any, clip: Clip | None) -> float:
    """Norm of the last step's gradient over all ranks, before clipping."""
    return float(clip.norm if clip else engine.get_global_grad_norm())


def _is_plain(train: TrainConfig) -> bool:
    return train.zero_stage == 0 and train.precision == "fp32"


def this_device() -> torch.device:
    """Where the engines of this rank will be."""
    rank = int(os.environ["LOCAL_RANK"])
    return torch.device(deepspeed.accelerator.get_accelerator().device_name(rank))


def frozen(model: nn.Module, train: TrainConfig, device: torch.device) -> Any:
    """A model that only answers; sharded like the others under ZeRO 3."""
    model.requires_grad_(False).eval()
    if train.zero_stage < 3:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        cast_parameters(model, dtype[train.precision])
        return model.to(device)
    config = zero_config(train) | {"train_micro_batch_size_per_gpu": 1}
    config["zero_optimization"].pop("offload_optimizer", None)  # it has none
    with quiet():
        engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine


@contextlib.contextmanager
def gathered(parameter: nn.Parameter, *, modified: bool = False) -> Iterator[None]:
    """The whole parameter on every rank, whatever the ZeRO stage; `modified` keeps changes."""
    if not hasattr(parameter, "ds_status"):  # what DeepSpeed itself asks to know a ZeRO 3 weight
        yield
        return
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if modified else None):
        assert (
            parameter.ds_status
            == deepspeed.runtime.zero.partition_parameters.ZeroParamStatus.AVAILABLE
        )
        yield


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter, whole, on the CPU in fp32; collective under ZeRO 3."""
    state = {}
    for name, parameter in model.named_parameters():
        with gathered(parameter):
            state[name] = parameter.detach().to("cpu", torch.float32, copy=True)
    return state


def check_precision(train: TrainConfig) -> None:
    """fp16 needs a GPU: torch has no fp16 training kernels for most CPUs."""
    if train.precision == "fp16" and not torch.cuda.is_available():
        raise UserError(
            "train.precision: fp16 needs a GPU and this machine has none: use fp32 or bf16"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """DeepSpeed prints to stdout while it starts, accelerate warns; errors still raise."""
    for name in ("DeepSpeed", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def checkpoint_activations(model: nn.Module) -> None:
    """Keep the inputs of the blocks of a model of transformers and compute the rest again."""
    module: Any
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing_enable"):
            module.gradient_checkpointing_enable({"use_reentrant": False})
            module.train()  # only then transformers does it; dropout is off in any case
            return
