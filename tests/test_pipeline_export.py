"""What a stage publishes is an ordinary folder of transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.pipeline.config import RunConfig, TrainConfig
from align.pipeline.engine import Engine
from align.pipeline.export import publish
from align.policy.adapters import add_adapter
from align.policy.config import AdapterConfig, LoRAConfig, ModelConfig
from align.policy.model import TokenScores

pytestmark = [
    pytest.mark.usefixtures("one_rank"),
    # DeepSpeed uses parts of torch that are.
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

TinyModel = Callable[[str], PreTrainedModel]

IDS = torch.tensor([[5, 6, 7, 8]])
LORA = LoRAConfig(r=2, alpha=4).in_full


def config(lora: AdapterConfig | None = None) -> RunConfig:
    return RunConfig(name="test", model=ModelConfig(peft=lora))


def with_trained_adapters(model: PreTrainedModel) -> PeftModel:
    adapted = add_adapter(model, LORA, seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return adapted


@torch.no_grad()
@pytest.mark.parametrize("zero_stage", [0, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_policy_loads_with_the_stock_class(
    tiny_causal: TinyModel,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    family: str,
    zero_stage: int,
) -> None:
    expected = tiny_causal(family)(input_ids=IDS).logits
    model = tiny_causal(family)
    Engine(model, 1e-3, 1, TrainConfig.model_validate({"zero_stage": zero_stage}))
    publish(model, tokenizer, config(), "sft", tmp_path / "final")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert torch.equal(loaded(input_ids=IDS).logits, expected)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "final").chat_template == tokenizer.chat_template
    )
    assert "AutoModelForCausalLM" in (tmp_path / "final" / "README.md").read_text()


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_policy_generates_with_its_cache_though_a_trainer_turned_it_off(
    tiny_causal: TinyModel,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    lora: AdapterConfig | None,
) -> None:
    model = tiny_causal("llama")
    model.config.use_cache = False
    trained = with_trained_adapters(model) if lora else model
    publish(trained, tokenizer, config(lora), "sft", tmp_path / "final")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert loaded.config.use_cache and loaded.generation_config.use_cache
    assert not model.config.use_cache  # the one in training stays as it is


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_are_merged_and_kept_apart(
    tiny_causal: TinyModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, family: str
) -> None:
    model = with_trained_adapters(tiny_causal(family))
    expected = model(input_ids=IDS).logits
    publish(model, tokenizer, config(LORA), "ppo", tmp_path / "final")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert torch.allclose(merged(input_ids=IDS).logits, expected, atol=1e-3)
    apart = PeftModel.from_pretrained(tiny_causal(family), tmp_path / "final" / "adapter")
    assert torch.allclose(apart(input_ids=IDS).logits, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_reward_model_loads_with_the_stock_class_and_keeps_its_head(
    tiny_scalar: TinyModel,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    family: str,
    lora: AdapterConfig | None,
) -> None:
    model = with_trained_adapters(tiny_scalar(family)) if lora else tiny_scalar(family)
    expected = TokenScores(model)(IDS)[:, -1]
    publish(model, tokenizer, config(lora), "rm", tmp_path / "final")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final")
    assert torch.allclose(loaded(input_ids=IDS).logits[:, 0], expected, atol=1e-3)
