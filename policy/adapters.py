"""Parameter-efficient methods: `model.lora` or `model.peft` as adapters on a frozen base.

Any method of peft passes that PPO can stand on: the base is left as it is, for it is the reference;
with new adapters the model says what the base says; and adapters can be merged into it, for what a
stage publishes is an ordinary folder of transformers.

Shapes: B texts, L tokens, V vocabulary.
"""

import copy
import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, get_type_hints

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from align.data.errors import UserError
from align.policy.config import AdapterConfig

OURS = ("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "auto_mapping")
"""Fields that follow from the stage."""
NEED_MORE = {
    "ADALORA": "is told after every step which ranks to keep",
    "MULTITASK_PROMPT_TUNING": "is told the task of every text",
    "POLY": "is told the task of every text",
    "XLORA": "mixes adapters that were trained before",
}
"""Methods that ask their training loop for what ours does not give -> what it is."""
NEED_DATA = ("eva", "corda", "loftq", "lora_ga")
"""Values of `init_lora_weights` for which peft would have to see data or other weights first."""
CLOSE = 1e-4
"""Share of the largest logit by which rounding may move one."""


def peft_config(adapter: AdapterConfig, *, scalar: bool) -> PeftConfig:
    """The config in peft's own class, checked. Raises UserError, one line that names the key."""
    kind = adapter.type.upper()
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        known = [one.value for one in PEFT_TYPE_TO_CONFIG_MAPPING]
        raise UserError(f"model.peft.type: peft has no {adapter.type}; {_nearest(kind, known)}")
    made: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind]  # type: ignore[index]  # the enum's values are text
    if kind in NEED_MORE:
        raise UserError(f"model.peft.type: {kind} {NEED_MORE[kind]}, and align does not do that")
    known = [field.name for field in fields(made) if field.init and field.name not in OURS]
    hints = get_type_hints(made)
    options = {
        name: _checked(f"model.peft.{name}", value, hints.get(name), known, kind)
        for name, value in adapter.options.items()
    }
    with in_one_line(kind):
        config: PeftConfig = made(task_type="SEQ_CLS" if scalar else "CAUSAL_LM", **options)
    return config


def add_adapter(
    model: PreTrainedModel, adapter: AdapterConfig, seed: int, *, check: bool = True
) -> PeftModel:
    """Freeze the model and add adapters to it, in place; a scalar head stays trainable.

    LoRA's B starts at 0, so the adapted model equals its base (arXiv:2106.09685, section 4.1);
    `check` sees to it for every method. Raises: UserError where that does not hold.
    """
    scalar = "ForSequenceClassification" in type(model).__name__
    config = peft_config(adapter, scalar=scalar)
    base = {id(parameter) for parameter in model.parameters()}
    before = _logits(model) if check else None
    with torch.random.fork_rng(devices=[]), in_one_line(adapter.type):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    if any(p.requires_grad and id(p) in base for p in adapted.parameters()):
        raise UserError(
            f"adapters ({adapter.type}): these fields train weights of the base itself, "
            "which is the reference of PPO: leave out `bias` and the like"
        )
    if before is not None:
        _check_start(adapted, before, adapter.type)
    return adapted


def _check_start(adapted: PeftModel, before: Tensor, kind: str) -> None:
    """Refuse what is not the base at the start, or has no base left, or cannot be merged."""
    with adapted.disable_adapter():
        without = _logits(adapted)
    if not torch.equal(without, before):
        raise UserError(
            f"adapters ({kind}): these fields change the weights of the base, which is the "
            "reference of PPO: choose another way to initialise it"
        )
    difference = float((_logits(adapted) - before).abs().max())
    if difference > CLOSE * float(before.abs().max()):
        raise UserError(
            f"adapters ({kind}): these fields move the logits by {difference:.2g} before it "
            "has learnt anything, and PPO must start as its reference: choose a method or an "
            "initialisation that starts as the base, such as LORA, IA3 or OFT"
        )
    _check_merging(adapted, kind)


def _check_merging(adapted: PeftModel, kind: str) -> None:
    """Merge a copy of one layer: some methods cannot, or not into layers of this kind."""
    layers = (module for module in adapted.modules() if isinstance(module, BaseTunerLayer))
    try:
        if not isinstance(adapted.base_model, BaseTuner):
            raise NotImplementedError("it is no change of weights")
        copy.deepcopy(next(layers)).merge()
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"adapters ({kind}): cannot be merged into the model that a stage publishes "
            f"({' '.join(str(error).split())[:100]}): choose another method, such as LORA or OFT"
        ) from error


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Of a few tokens, with dropout off as always; not of those that peft put before them."""
    ids_BL = torch.arange(3, 11, device=next(model.parameters()).device)[None] % 128
    logits: Tensor = model(input_ids=ids_BL, use_cache=False).logits
    return logits[:, -ids_BL.shape[1] :] if logits.dim() == 3 else logits


def _checked(key: str, value: Any, hint: Any, known: list[str], kind: str) -> Any:
    """A field's value in the type that peft's class declares."""
    name = key.rpartition(".")[2]
    if name not in known:
        raise UserError(f"{key}: {kind} has no such field; {_nearest(name, known)}")
    if "dropout" in name and value:
        raise UserError(
            f"{key}: must be 0: dropout would make the first ratio of PPO differ from 1"
        )
    if name == "modules_to_save" and value:
        raise UserError(f"{key}: trains copies of whole layers, which align does not keep apart")
    if name == "init_lora_weights" and str(value).lower() in NEED_DATA:
        raise UserError(f"{key}: {value} must see data first, and align gives peft none: drop it")
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(
            value
        )
    except ValidationError as error:
        wanted = error.errors()[0]["msg"].replace("Input should ", "")
        raise UserError(f"{key}: must {wanted}, not {value!r}") from error


@contextmanager
def in_one_line(kind: str) -> Iterator[None]:
    """What peft says against a config, in one line; what it merely warns of is left out."""
    with warnings.catch_warnings():
        # It reads a name that transformers is to drop, and says what it does about GPT-2's layers.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
        try:
            yield
        except (ValueError, TypeError, AttributeError, ImportError, RuntimeError) as error:
            text = " ".join(str(error).split())
            raise UserError(f"adapters ({kind}): {text[:200]}") from error


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
