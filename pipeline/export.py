"""Publishing a stage's model so that stock transformers classes load it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.data.errors import UserError
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.engine import full_state
from align.pipeline.run_directory import folder_for, write_json
from align.pipeline.shared_base import BASE
from align.policy.adapters import add_adapter
from align.policy.places import identity_of

CARD = """---
library_name: transformers
base_model: {base}
tags: [align, {stage}]
---
# {name}: {stage}

Made by stage `{stage}` of align, run `{name}`, from `{base}`. The run's `config.yaml` says how.

Load it with `{loader}.from_pretrained`.
"""


def publish(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    stage: str,
    final: Path,
) -> None:
    """Write weights, tokenizer and model card; every rank calls this.

    Weights are whole and in fp32. Adapters are merged, and kept apart in `adapter/`.
    """
    state = full_state(model)
    if ranks.is_main():
        with _saying_why(final), folder_for(final) as folder:
            fresh = _fresh_copy(model, state, config)
            if isinstance(fresh, PeftModel):
                # A reward model may have got a pad token, and with it a larger embedding. Not
                # told, peft would look for the base model on the hub to see whether it has.
                resized = stage == "rm"
                fresh.save_pretrained(str(folder / "adapter"), save_embedding_layers=resized)
                base: Any = fresh.get_base_model()
                if base.name_or_path:
                    write_json(
                        folder / "adapter" / BASE, {"identity": identity_of(base.name_or_path)}
                    )
                fresh = fresh.merge_and_unload()
            fresh.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / "README.md").write_text(_card(fresh, config, stage), encoding="utf-8")
    ranks.barrier()


@contextmanager
def _saying_why(final: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot write {final}: {reason}. Free some space or mend the disk, and run the same "
            "command again"
        ) from error


def _fresh_copy(
    model: nn.Module, state: dict[str, Tensor], config: RunConfig
) -> PreTrainedModel | PeftModel:
    """The same model outside of DeepSpeed, on the CPU."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    scalar = "ForSequenceClassification" in type(inner).__name__
    loader: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    stored: Any = copy.deepcopy(inner.config)
    stored.use_cache = True  # trainers turn it off, and `generate` is slow without
    fresh: PreTrainedModel = loader.from_config(stored, dtype=torch.float32)
    adapter = config.model.adapter if isinstance(model, PeftModel) else None
    adapted = add_adapter(fresh, adapter, 0, check=False) if adapter else fresh
    # Tied weights stand in the state under one of their names.
    missing, unexpected = adapted.load_state_dict(state, strict=False)
    tied = set(fresh.all_tied_weights_keys)
    assert not unexpected, unexpected
    assert all(any(key.endswith(name) for name in tied) for key in missing), missing
    return adapted


def _card(model: PreTrainedModel, config: RunConfig, stage: str) -> str:
    scalar = "ForSequenceClassification" in type(model).__name__
    loader = "AutoModelForSequenceClassification" if scalar else "AutoModelForCausalLM"
    base = "align's embedded model" if config.model.path == "embedded" else config.model.path
    return CARD.format(base=base, stage=stage, name=config.name, loader=loader)
