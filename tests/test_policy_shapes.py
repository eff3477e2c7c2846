"""The size of a model from its config.json alone, against the model itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from align.data.errors import UserError
from align.policy.adapters import add_adapter
from align.policy.config import LoRAConfig
from align.policy.places import EMBEDDED
from align.policy.shapes import KNOWN, read_shape

Make = Callable[[str], PreTrainedModel]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_the_parameters_are_counted_as_torch_counts_them(
    family: str, tiny_causal: Make, tiny_scalar: Make, tmp_path: Path
) -> None:
    model = tiny_causal(family)
    model.config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.parameters == model.num_parameters()
    assert shape.scalar_parameters == tiny_scalar(family).num_parameters()


def test_tied_embeddings_and_heads_of_another_size_are_counted_too() -> None:
    """The embedded model has both."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(EMBEDDED))
    assert read_shape("embedded").parameters == model.num_parameters()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_are_counted_as_peft_makes_them(
    family: str, tiny_causal: Make, tmp_path: Path
) -> None:
    lora, model = LoRAConfig(r=3).in_full, tiny_causal(family)
    model.config.save_pretrained(tmp_path)
    adapted = add_adapter(model, lora, seed=0)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert read_shape(tmp_path).adapter_parameters(lora) == trained


@pytest.mark.parametrize(
    ("hub_id", "billions"),
    [
        ("Qwen/Qwen2.5-1.5B", 1.5437),
        ("Qwen/Qwen2.5-7B", 7.6156),
        ("meta-llama/Llama-3.1-70B", 70.55),
    ],
)
def test_known_models_are_as_large_as_their_cards_say(hub_id: str, billions: float) -> None:
    assert hub_id in KNOWN
    assert read_shape(hub_id).parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_a_model_in_the_hubs_cache_is_read_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Callable[[str], PretrainedConfig]
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    tiny_config("llama").save_pretrained(snapshot)
    assert read_shape("some/model").hidden == 32


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"model_type": "mixtral"}, "no memory plan for models of type mixtral; known are gpt2"),
        ({"model_type": "llama", "hidden_size": 8}, "its config.json has no num_attention_heads"),
        ("{", "is no JSON"),
        (None, "no config.json there"),
    ],
)
def test_a_model_of_unknown_shape_is_one_line(
    config: dict[str, object] | str | None, complaint: str, tmp_path: Path
) -> None:
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=complaint) as caught:
        read_shape(tmp_path)
    assert "\n" not in str(caught.value)
