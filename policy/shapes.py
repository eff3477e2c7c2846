"""The size of a language model, from its config.json alone: what a memory plan needs of it.

No torch, and no weights: a plan is made before anything is downloaded.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.data.errors import UserError
from align.policy.config import AdapterConfig
from align.policy.places import resolve

GATED = ("llama", "mistral", "qwen2", "qwen3")
"""Three matrices in the MLP, RMSNorm, rotary positions."""

KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-1.5B": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-7B": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "meta-llama/Llama-3.1-70B": {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
"""Models that the configs which ship name by hub id, from their published config.json."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only transformer."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    gated: bool
    tied: bool
    """Input and output embeddings are one matrix."""
    biases: int
    """Bias and norm parameters of a layer."""
    other: int
    """Parameters that are in no layer and no token embedding: last norm, learned positions."""

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of every linear layer of a block."""
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        # GPT-2 has one matrix for queries, keys and values.
        into_attention = (queries, keys, keys) if self.gated else (queries + 2 * keys,)
        into_mlp = (self.intermediate,) * (2 if self.gated else 1)
        return (
            *((self.hidden, outputs) for outputs in (*into_attention, *into_mlp)),
            (queries, self.hidden),
            (self.intermediate, self.hidden),
        )

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        block = sum(map(math.prod, self.linear_layers)) + self.biases
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * block + embeddings + self.other

    @property
    def scalar_parameters(self) -> int:
        """The same model with one output per token instead of one per word."""
        output = 0 if self.tied else self.vocabulary * self.hidden
        return self.parameters - output + self.hidden

    def adapter_parameters(self, adapter: AdapterConfig) -> int:
        """Low-rank adapters on every linear layer: r (inputs + outputs) each (Hu et al. 2021).

        Other methods are reckoned as if they were, with peft's usual rank if they have none.
        """
        rank: int = adapter.options.get("r", 8)
        return self.layers * sum(rank * sum(sizes) for sizes in self.linear_layers)


def read_shape(path: str | Path) -> Shape:
    """The shape of a model in a folder, in the hub's cache, or known by its hub id. UserError."""
    config = _config(str(path))
    if config.get("model_type") == "gpt2":
        return _gpt2(config)
    if config.get("model_type") not in GATED:
        raise UserError(
            f"{path}: no memory plan for models of type {config.get('model_type')}; known are "
            f"{', '.join(('gpt2', *GATED))}"
        )
    return _gated(config, str(path))


def _gated(config: Mapping[str, Any], path: str) -> Shape:
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        keys = config.get("num_key_value_heads") or heads
        size = config.get("head_dim") or hidden // heads
        has_bias = config["model_type"] == "qwen2" or config.get("attention_bias", False)
        attention_bias = (heads + 2 * keys) * size if has_bias else 0
        output_bias = hidden if config.get("attention_bias") else 0
        head_norms = 2 * size if config["model_type"] == "qwen3" else 0
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            heads=heads,
            key_value_heads=keys,
            head_size=size,
            vocabulary=config["vocab_size"],
            gated=True,
            tied=config.get("tie_word_embeddings", False),
            biases=2 * hidden + attention_bias + output_bias + head_norms,
            other=hidden,
        )
    except KeyError as error:
        raise UserError(f"{path}: its config.json has no {error.args[0]}") from None


def _gpt2(config: Mapping[str, Any]) -> Shape:
    # What config.json leaves out is as in the first GPT-2.
    hidden, heads = config.get("n_embd", 768), config.get("n_head", 12)
    inner = config.get("n_inner") or 4 * hidden
    return Shape(
        layers=config.get("n_layer", 12),
        hidden=hidden,
        intermediate=inner,
        heads=heads,
        key_value_heads=heads,
        head_size=hidden // heads,
        vocabulary=config.get("vocab_size", 50257),
        gated=False,
        tied=config.get("tie_word_embeddings", True),
        biases=4 * hidden + (3 * hidden + hidden) + (inner + hidden),
        other=2 * hidden + config.get("n_positions", 1024) * hidden,
    )


def _config(path: str) -> dict[str, Any]:
    folder = Path(resolve(path))
    for file in (folder / "config.json", *_cached(path)):
        if file.is_file():
            try:
                config = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{file}: is no JSON ({error})") from None
            assert isinstance(config, dict)
            return config
    if path in KNOWN:
        return KNOWN[path]
    raise UserError(
        f"{path}: no config.json there, and no model of that id in the hub's cache; download its "
        "config.json into a folder and name that as model.path"
    )


def _cached(hub_id: str) -> list[Path]:
    """config.json in huggingface_hub's cache, the newest first."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    snapshots = home / "hub" / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    found = snapshots.glob("*/config.json")
    return sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
