"""Loading language models: causal, with a scalar head, from GGUF."""

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.data.errors import UserError
from align.policy.attention import reads_packed, use_attention_by_text
from align.policy.config import ModelConfig
from align.policy.places import resolve

UNREADABLE = (OSError, ValueError, ImportError, RuntimeError, SafetensorError)
"""What transformers raises over a folder that is not what it should be."""


def load_tokenizer(path: str | Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a chat template and an EOS token, else a UserError."""
    source = resolve(path)
    gguf = {"gguf_file": config.gguf_file} if _is_gguf(source, config) else {}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **gguf)
    except UNREADABLE as error:
        raise UserError(
            f"no tokenizer in {source}: give a folder with config.json and tokenizer.json, or the "
            f"id of a model on a hub that can be reached ({_one_line(error)})"
        ) from error
    if config.chat_template is not None:
        tokenizer.chat_template = _read_template(config.chat_template)
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer in {source} has no chat template: give a Jinja file as "
            "model.chat_template"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer in {source} has no EOS token, so no answer could end")
    return tokenizer


def load_causal_lm(path: str | Path, config: ModelConfig) -> PreTrainedModel:
    """A causal language model in fp32 with dropout off."""
    source = resolve(path)
    try:
        if _is_gguf(source, config):
            return _load_gguf(source, config)
        stored = AutoConfig.from_pretrained(source)
        return _load(AutoModelForCausalLM, source, stored, config, new=set())
    except UNREADABLE as error:
        raise UserError(f"cannot load a causal model from {source}: {_one_line(error)}") from error


def load_scalar_model(path: str | Path, config: ModelConfig, seed: int) -> PreTrainedModel:
    """A model with one output per token, in fp32 with dropout off.

    From a causal model the head is new: weights ~ N(0, 1 / (d + 1)), as in Stiennon et al. 2020
    (arXiv:2009.01325). From a reward model the head is kept.
    """
    source = resolve(path)
    try:
        stored = AutoConfig.from_pretrained(source)
        is_reward_model = "ForSequenceClassification" in (stored.architectures or [""])[0]
        stored.num_labels = 1
        new = set() if is_reward_model else {"score.weight"}
        model = _load(AutoModelForSequenceClassification, source, stored, config, new)
    except UNREADABLE as error:
        raise UserError(f"cannot load a reward model from {source}: {_one_line(error)}") from error
    if not is_reward_model:
        weight = model.get_submodule("score").weight
        assert isinstance(weight, Tensor)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator))
            weight.div_(math.sqrt(weight.shape[1] + 1))
    return model


class TokenScores(nn.Module):
    """A scalar for every token, where the stock class gives the last one only.

    In the units of `set_reward_units`, if the model has any.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        stored = model.config.to_dict()
        self.shift: float = stored.get("reward_shift", 0.0)
        self.scale: float = stored.get("reward_scale", 1.0)
        self.reads_packed = reads_packed(self._inner)

    def forward(self, ids_BL: Tensor, positions_BL: Tensor | None = None) -> Tensor:
        """Scores (B, L); positions tell packed texts apart."""
        return self.rewards(self.hidden(ids_BL, positions_BL))

    def hidden(self, ids_BL: Tensor, positions_BL: Tensor | None) -> Tensor:
        """The last hidden states, (B, L, D)."""
        hidden_BLD: Tensor = self._inner.base_model(
            input_ids=ids_BL, position_ids=positions_BL, use_cache=False
        ).last_hidden_state
        return hidden_BLD

    def rewards(self, hidden_BLD: Tensor) -> Tensor:
        """What the model's own head makes of hidden states, in its units, (B, L)."""
        scores_BL1: Tensor = self._inner.get_submodule("score")(hidden_BLD)
        return (scores_BL1.squeeze(-1) - self.shift) / self.scale

    @property
    def _inner(self) -> Any:
        # Adapters live inside the base model's own layers.
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters and leave buffers: in bf16, rotary frequencies are wrong by a radian after
    a few hundred positions."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def freeze(model: nn.Module) -> nn.Module:
    """No gradients, evaluation mode."""
    return model.requires_grad_(False).eval()


def check_context(path: str | Path, config: ModelConfig, max_length: int) -> None:
    """Refuse texts longer than the model can read, before anything is tokenised."""
    source = resolve(path)
    gguf = {"gguf_file": config.gguf_file} if _is_gguf(source, config) else {}
    try:
        context = AutoConfig.from_pretrained(source, **gguf).max_position_embeddings
    except UNREADABLE as error:
        raise UserError(f"no model in {source}: {_one_line(error)}") from error
    if max_length > context:
        raise UserError(
            f"data.max_length ({max_length}) exceeds the context of {context} tokens of the model "
            f"in {source}: set it to {context} or less"
        )


def _is_gguf(source: str, config: ModelConfig) -> bool:
    """Only the base model is GGUF: what a stage saves is an ordinary folder."""
    return config.gguf_file is not None and source == resolve(config.path)


def _load(
    loader: Any, source: str, stored: Any, config: ModelConfig, new: set[str]
) -> PreTrainedModel:
    """A model in fp32; every weight but the `new` ones must be there."""
    model: PreTrainedModel
    model, report = loader.from_pretrained(
        source,
        config=_without_dropout(stored),
        dtype=torch.float32,
        attn_implementation=config.attention,
        output_loading_info=True,
    )
    # transformers would fill them with random numbers and only warn.
    missing = sorted(set(report["missing_keys"]) - new)
    if missing:
        raise UserError(
            f"{len(missing)} weights are missing in {source}, the first is {missing[0]}: "
            "get a whole copy of the model"
        )
    use_attention_by_text(model)
    return model


def _load_gguf(source: str, config: ModelConfig) -> PreTrainedModel:
    loaded = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=config.gguf_file, dtype=torch.float32
    )
    # transformers refuses to save a model that came from GGUF, so the weights move to a fresh one.
    fresh = _without_dropout(loaded.config)
    del fresh.quantization_config
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        fresh, dtype=torch.float32, attn_implementation=config.attention
    )
    model.load_state_dict(loaded.state_dict())
    use_attention_by_text(model)
    return model


def _without_dropout(config: Any) -> Any:
    """Dropout would make the first PPO ratio differ from 1, so every model runs without."""
    for key in config.to_dict():
        if "dropout" in key or key.endswith("pdrop"):
            setattr(config, key, 0.0)
    return config


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read model.chat_template {path}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """What a library says over several lines, short enough to read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
