"""One frozen base under several adapters: policy, reference, critic and reward model share it.

The base with the policy's adapter is the policy, with none it is the reference, with that of the
reward model the reward model, and with the critic's on top of that the critic. An optimiser owns
the adapter and the head that it trains and sees nothing else, so that any engine can be built
around them while the base lies in memory once.

Shapes: B texts, L tokens, D hidden.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.policy.adapters import in_one_line
from align.policy.attention import reads_packed
from align.policy.value_head import LogitsAndValues, logits_and_values, new_head

Names = tuple[str, ...]
"""Adapters that are used together; none is the base alone."""
STACKABLE = ("LORA", "IA3", "LOHA", "LOKR", "OFT")
"""Methods of which an adapter on top of another is what it would be on a base with that merged."""
HEAD = "score.weight"
"""How the weight of a reward model's head ends its name."""


class Trunk:
    """A model whose base is frozen and whose adapters have names."""

    def __init__(self, model: PreTrainedModel, place: Callable[[nn.Module], Any]) -> None:
        """`place` freezes a module and puts it where it belongs, whole or in shards."""
        self.model: Any = model
        self.reads_packed = reads_packed(model)
        self._body = _Body(model)
        self._placed = place(self._body)  # what shards it ends with the object that it returns
        self._adapted: PeftModel | None = None
        self._parameters: dict[str, dict[str, nn.Parameter]] = {}
        self._trained: set[str] = set()
        self._used: Names | None = None

    @property
    def adapted(self) -> PeftModel:
        """The model in peft's wrapper; there must be an adapter."""
        assert self._adapted is not None
        return self._adapted

    def add(self, name: str, config: PeftConfig, *, trained: bool, seed: int = 0) -> None:
        """A new adapter of its own; only one that is `trained` gets gradients."""
        config.task_type = None  # peft would look for the methods of one kind of model
        with torch.random.fork_rng(devices=[]), in_one_line(PeftType(config.peft_type).value):
            torch.manual_seed(seed)
            if self._adapted is None:
                self._adapted = get_peft_model(self.model, config, adapter_name=name)
            else:
                self._adapted.add_adapter(name, config)
        known = {id(p) for own in self._parameters.values() for p in own.values()}
        self._parameters[name] = {
            label: parameter
            for label, parameter in self._adapted.named_parameters()
            if name in label.split(".") and id(parameter) not in known
        }
        self._trained |= {name} if trained else set()
        self._used = None  # peft has switched adapters as it sees fit
        self._give_gradients()

    def load(self, name: str, folder: Path) -> Tensor:
        """Add a reward model's adapter from its folder, frozen; its head's weight, (1, D).

        It must have been trained on this very base, and by the method of the other adapters.
        """
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        config.modules_to_save = None  # the head is ours to keep
        self.add(name, config, trained=False)
        # Where the pad token was new, the embeddings are there too; texts have no padding to read.
        stored = load_file(folder / "adapter_model.safetensors")
        prefix = PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type]
        state = {key: x for key, x in stored.items() if prefix in key}
        found: Any = set_peft_model_state_dict(self.adapted, state, adapter_name=name)
        assert state and not found.unexpected_keys, found.unexpected_keys
        (head_1D,) = (x for key, x in stored.items() if key.endswith(HEAD))
        dtype = next(self.model.parameters()).dtype
        for parameter in self._parameters[name].values():
            parameter.data = parameter.data.to(dtype)
        return head_1D.to(parameter)

    def alone(self, name: str) -> PeftModel:
        """The base with one adapter, in peft's wrapper; the others are dropped for good."""
        self._use((name,))
        for other in self._parameters.keys() - {name}:
            self.adapted.delete_adapter(other)
        return self.adapted

    def whole(self, name: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the base and of one adapter."""
        others = [own for other, own in self._parameters.items() if other != name]
        left_out = {id(parameter) for own in others for parameter in own.values()}
        return ((n, p) for n, p in self.adapted.named_parameters() if id(p) not in left_out)

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        """An adapter's parameters, by their names in the wrapper."""
        return self._parameters[name]

    def __call__(self, names: Names, *, head: bool, **inputs: Any) -> Any:
        """The model's output under some adapters, with or without its own head.

        They stay on until the next call, so that a backward pass that computes activations again
        meets what the forward pass met.
        """
        self._use(names)
        return self._body(head=head, **inputs)

    def _use(self, names: Names) -> None:
        if names == self._used or self._adapted is None:
            return
        for layer in self._adapted.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.enable_adapters(bool(names))
                if names:
                    layer.set_adapter(list(names))
        self._used = names
        self._give_gradients()

    def _give_gradients(self) -> None:
        """To what is trained, on or off: peft gives them to what it has just switched on."""
        for name, own in self._parameters.items():
            for parameter in own.values():
                parameter.requires_grad_(name in self._trained)


class _Body(nn.Module):
    """The model's forward pass, with or without its head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *, head: bool, **inputs: Any) -> Any:
        model: Any = self.model
        return model(**inputs) if head else model.base_model(**inputs)


class Part(nn.Module):
    """A trunk under some adapters, of which the first may be trained; perhaps with a head.

    `named_parameters` has what is trained alone. DeepSpeed asks a module for its parameters that
    way, so it moves, casts, averages and shards these and leaves the base to the others.
    """

    def __init__(self, trunk: Trunk, names: Names, *, trained: bool) -> None:
        super().__init__()
        self.trunk, self.names = trunk, names  # a trunk is no nn.Module, and so is not registered
        self._own = trunk.parameters_of(names[0]) if trained else {}

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Of the trained adapter and of the head."""
        yield from super().named_parameters(prefix, recurse, remove_duplicate)
        dot = f"{prefix}." if prefix else ""
        yield from ((f"{dot}{name}", parameter) for name, parameter in self._own.items())

    def forward(self, **inputs: Any) -> Any:
        """What the causal model says."""
        return self.trunk(self.names, head=True, **inputs)


class ValuesPart(Part):
    """A policy that also says a value for every token, by a head that is trained with it."""

    def __init__(self, trunk: Trunk, names: Names) -> None:
        super().__init__(trunk, names, trained=True)
        self.head = new_head(trunk.model)

    def forward(self, **inputs: Any) -> LogitsAndValues:
        """Logits and values."""
        return logits_and_values(super().forward, self.trunk.model, self.head, inputs)


class ScoresPart(Part):
    """A scalar for every token, as `TokenScores` gives it."""

    def __init__(
        self,
        trunk: Trunk,
        names: Names,
        head_1D: Tensor,
        units: tuple[float, float] = (0.0, 1.0),
        *,
        trained: bool,
    ) -> None:
        """`units` are shift and scale of the reward."""
        super().__init__(trunk, names, trained=trained)
        self.head = nn.Parameter(head_1D.clone(), requires_grad=trained)
        self.shift, self.scale = units
        self.reads_packed = trunk.reads_packed

    def forward(self, ids_BL: Tensor, positions_BL: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Scores (B, L); positions tell packed texts apart."""
        hidden_BLD: Tensor = self.trunk(
            self.names, head=False, input_ids=ids_BL, position_ids=positions_BL, use_cache=False
        ).last_hidden_state
        return ((hidden_BLD @ self.head.T).squeeze(-1) - self.shift) / self.scale
