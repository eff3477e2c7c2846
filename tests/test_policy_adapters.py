"""Adapters of every kind: from the config's words to a model that starts as its base."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from align.data.errors import UserError
from align.policy.adapters import add_adapter, peft_config
from align.policy.config import AdapterConfig, LoRAConfig, ModelConfig

TinyModel = Callable[[str], PreTrainedModel]

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
EVERYWHERE = {"target_modules": "all-linear"}
KINDS: dict[str, dict[str, Any]] = {
    "LORA": EVERYWHERE | {"use_rslora": True},
    "IA3": {
        "target_modules": ["k_proj", "v_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    },
    "LOHA": EVERYWHERE,
    "LOKR": EVERYWHERE,
    "OFT": EVERYWHERE,
    "BOFT": EVERYWHERE | {"boft_block_size": 4},
    "VERA": EVERYWHERE | {"r": 4},
    "HRA": EVERYWHERE,
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
}


def adapter(kind: str, **options: Any) -> AdapterConfig:
    return AdapterConfig.model_validate({"type": kind, **options})


def trained(model: PeftModel) -> PeftModel:
    """As if it had learnt something."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    return model


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning")  # BOFT says that it does without CUDA
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_starts_as_its_base_keeps_it_and_merges(
    tiny_causal: TinyModel, kind: str
) -> None:
    """C10: identity at the start; adapters off, the base to the last bit; merge = unmerged."""
    base = tiny_causal("llama")(input_ids=IDS).logits
    model = add_adapter(tiny_causal("llama"), adapter(kind, **KINDS[kind]), seed=0)
    assert torch.allclose(model(input_ids=IDS).logits, base, atol=1e-3)
    different = trained(model)(input_ids=IDS).logits
    assert not torch.allclose(different, base, atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=IDS).logits, base)
    merged = model.merge_and_unload()(input_ids=IDS).logits
    assert torch.allclose(merged, different, atol=1e-3)


def test_what_lora_learns_has_its_rank(tiny_causal: TinyModel) -> None:
    """C10, by singular values."""
    before = tiny_causal("llama").state_dict()
    model = trained(add_adapter(tiny_causal("llama"), LoRAConfig(r=3).in_full, seed=0))
    after = model.merge_and_unload().state_dict()
    ranks = {
        name: int(torch.linalg.matrix_rank(after[name] - weight, atol=1e-4))
        for name, weight in before.items()
        if "_proj" in name
    }
    assert set(ranks.values()) == {3}


@pytest.mark.parametrize(
    ("kind", "options", "line"),
    [
        ("LORAA", {}, "model.peft.type: peft has no LORAA; did you mean LORA?"),
        ("LORA", {"rr": 4}, "model.peft.rr: LORA has no such field; did you mean r?"),
        ("LORA", {"r": "many"}, "model.peft.r: must be a valid integer, unable to parse"),
        ("LORA", {"r": 0}, "adapters (LORA): `r` should be a positive integer"),
        ("LORA", {"task_type": "CAUSAL_LM"}, "model.peft.task_type: LORA has no such field"),
        ("LORA", {"lora_dropout": 0.1}, "model.peft.lora_dropout: must be 0: dropout"),
        ("LORA", {"modules_to_save": ["lm_head"]}, "model.peft.modules_to_save: trains copies"),
        ("LORA", {"init_lora_weights": "eva"}, "model.peft.init_lora_weights: eva must see data"),
        (
            "LORA",
            {"init_lora_weights": "pissa"},
            "adapters (LORA): these fields change the weights",
        ),
        (
            "LORA",
            {"init_lora_weights": "olora"},
            "adapters (LORA): these fields change the weights",
        ),
        ("LORA", {"init_lora_weights": False}, "adapters (LORA): these fields move the logits by"),
        ("LORA", {"bias": "all"}, "adapters (LORA): these fields train weights of the base"),
        ("PROMPT_TUNING", {"num_virtual_tokens": 4}, "adapters (PROMPT_TUNING): these fields move"),
        ("P_TUNING", {"num_virtual_tokens": 4}, "adapters (P_TUNING): these fields move"),
        ("PREFIX_TUNING", {"num_virtual_tokens": 4}, "adapters (PREFIX_TUNING): these fields move"),
        ("ADALORA", {"total_step": 9}, "model.peft.type: ADALORA is told after every step"),
        ("LILY", EVERYWHERE, "adapters (LILY): cannot be merged"),
    ],
)
def test_what_cannot_be_is_one_line(
    tiny_causal: TinyModel, kind: str, options: dict[str, Any], line: str
) -> None:
    message = refused(lambda: add_adapter(tiny_causal("qwen2"), adapter(kind, **options), 0))
    assert message.startswith(line)


def test_the_short_form_is_the_same_in_the_words_of_peft() -> None:
    short = ModelConfig.model_validate({"lora": {"r": 4, "alpha": 8}})
    long = {"type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    assert short.adapter == ModelConfig.model_validate({"peft": long}).adapter
    assert short.adapter is not None
    made = peft_config(short.adapter, scalar=True)
    assert made.to_dict()["lora_alpha"] == 8 and made.task_type == "SEQ_CLS"


def test_both_forms_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.peft: does not go with model\.lora"):
        ModelConfig.model_validate({"lora": {}, "peft": {"type": "IA3"}})
