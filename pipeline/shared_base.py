"""PPO with adapters: policy, reference, critic and reward model as parts of as few bases as can be.

Where the reward model was trained as an adapter on the model that the policy starts from, as it is
within a run, there is one base. Another reward model is a base of its own, which is also that of
the critic: the reward model is the critic without its adapter.

DeepSpeed shards the optimisers of the adapters, and at ZeRO 3 the bases. Adapters are small and lie
whole on every rank.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from align.pipeline.config import RunConfig
from align.pipeline.engine import checkpoint_activations, frozen, gathered, this_device
from align.policy.adapters import add_adapter, peft_config
from align.policy.config import AdapterConfig
from align.policy.model import load_scalar_model
from align.policy.places import identity_of
from align.policy.trunk import STACKABLE, Names, Part, ScoresPart, Trunk, ValuesPart

POLICY, CRITIC = "default", "critic"
"""Names of the trained adapters; the first is peft's own, under which a policy is stored."""
BASE = "base.json"
"""Beside a published adapter: which base it was trained on."""


class SharedBase:
    """Builds the parts; whoever trains one hands it to an engine."""

    def __init__(self, model: PreTrainedModel, path: Path, config: RunConfig) -> None:
        """`model` is the policy's base, from `path`."""
        adapter = config.model.adapter
        assert adapter is not None
        self._config, self._adapter, self._identity = config, adapter, identity_of(path)
        add_adapter(model, adapter, config.seed).unload()  # checks it, before the base is sharded
        self.train = config.train.of_adapters
        self._trunk = self._placed(model)
        self._add(self._trunk, POLICY)
        self._known: dict[Path, tuple[Trunk, Names, Tensor, tuple[float, float]]] = {}
        self.policy: Part = (
            ValuesPart(self._trunk, (POLICY,))
            if config.ppo.has_value_head
            else Part(self._trunk, (POLICY,), trained=True)
        )
        self.reference = Part(self._trunk, (), trained=False)

    def policy_weights(self, *, trained_only: bool) -> Iterator[tuple[str, Tensor]]:
        """The adapter, or base and adapter, by name; every rank must exhaust it."""
        for name, parameter in self._trunk.whole(POLICY):
            if parameter.requires_grad or not trained_only:
                with gathered(parameter):
                    yield name, parameter.detach()

    def published(self) -> PeftModel:
        """The policy for itself. It ends the use of the other parts."""
        return self._trunk.alone(POLICY)

    def reward(self, path: Path) -> ScoresPart:
        """A reward model, or a rule classifier, frozen."""
        trunk, names, head_1D, units = self._scores(path)
        return ScoresPart(trunk, names, head_1D, units, trained=False)

    def critic(self, path: Path) -> ScoresPart:
        """A reward model under one more adapter, which starts as 0, and a head that is trained."""
        trunk, names, head_1D, units = self._scores(path)
        self._add(trunk, CRITIC)
        return ScoresPart(trunk, (CRITIC, *names), head_1D, units, trained=True)

    def _scores(self, path: Path) -> tuple[Trunk, Names, Tensor, tuple[float, float]]:
        """Where a reward model lives: its trunk and adapters, the weight of its head, its units."""
        if path not in self._known:
            self._known[path] = self._found(path)
        return self._known[path]

    def _found(self, path: Path) -> tuple[Trunk, Names, Tensor, tuple[float, float]]:
        if trained_on(path / "adapter", self._identity, self._adapter):
            name = f"reward{len(self._known)}"
            head_1D = self._trunk.load(name, path / "adapter")
            return self._trunk, (name,), head_1D, _units(_stored(path / "config.json"))
        model = load_scalar_model(path, self._config.model, self._config.seed)
        head: Any = model.get_submodule("score")
        head_1D = head.weight.detach().clone()
        trunk = self._placed(model)
        head_1D = head_1D.to(next(model.parameters()))  # to the same place, in the same precision
        return trunk, (), head_1D, _units(model.config.to_dict())

    def _add(self, trunk: Trunk, name: str) -> None:
        config = peft_config(self._adapter, scalar=False)
        trunk.add(name, config, trained=True, seed=self._config.seed)

    def _placed(self, model: PreTrainedModel) -> Trunk:
        train = self._config.train
        trunk = Trunk(model, partial(frozen, train=train, device=this_device()))
        if train.gradient_checkpointing:
            checkpoint_activations(model)
        return trunk


def trained_on(folder: Path, identity: str, adapter: AdapterConfig) -> bool:
    """Whether an adapter is of the base with this identity, and others of its kind can lie on it.

    DoRA scales what it lies on by the norms of the base, so it cannot lie on another adapter.
    """
    kind = adapter.type.upper()
    if kind not in STACKABLE or not (folder / BASE).exists():
        return False
    stored = _stored(folder / "adapter_config.json")
    plain = not (stored.get("use_dora") or adapter.options.get("use_dora"))
    return bool(
        plain and stored["peft_type"] == kind and _stored(folder / BASE)["identity"] == identity
    )


def _units(stored: dict[str, Any]) -> tuple[float, float]:
    return stored.get("reward_shift", 0.0), stored.get("reward_scale", 1.0)


def _stored(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded
