"""Which settings a run may change when it goes on, and which would make it another run.

A stage that has begun keeps every setting that shapes its result. What only says where and how the
work is done may change, and so may how long it goes on; a stage that has not begun is free.
"""

from collections.abc import Iterator
from typing import Any

from align.data.config import Section
from align.pipeline.config import STAGES, RunConfig

MAY_CHANGE = frozenset(
    {
        "sft.epochs",
        "rm.epochs",
        "ppo.steps",
        "ppo.kl_limit",
        "rollout.workers",
        "rollout.unit_minutes",
        "train.ranks",
        "train.zero_stage",
        "train.offload",
        "train.gradient_checkpointing",
        "train.eval_every",
        "train.save_every",
        "train.save_minutes",
        "train.keep_last",
        "train.keep_every",
        "train.upload",
    }
)
READ_BY: dict[str, tuple[str, ...]] = {
    "seed": STAGES,
    "model": STAGES,
    "data": STAGES,
    "data.instructions": ("sft",),
    "data.feedback": ("rm",),
    "data.prompts": ("ppo",),
    "data.evaluation": (),
    "mixture": (),
    "mixture.instructions": ("sft",),
    "mixture.prompts": ("ppo",),
    "train": STAGES,
    "sft": ("sft",),
    "feedback": ("rm",),
    "rm": ("rm",),
    "reward": ("ppo",),
    "rollout": ("rm", "ppo"),  # simulated annotators judge sampled answers
    "evaluation": (),
    "ppo": ("ppo",),
    "name": (),
    "cluster": (),
}
"""Section of the config, or key in it -> the stages whose result it shapes."""


def frozen_settings(config: RunConfig, stage: str) -> dict[str, Any]:
    """What a checkpoint of the stage depends on; its hash is in the manifest."""
    return {
        key: _plain(value)
        for key, value in _settings(config)
        if stage in _readers(key) and key not in MAY_CHANGE
    }


def changed_settings(earlier: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Key -> its value then and now, for every setting that is not what it was."""
    then = dict(_settings(earlier))
    return {
        key: (_plain(then[key]), _plain(value))
        for key, value in _settings(now)
        if then[key] != value
    }


def is_frozen(key: str, begun: tuple[str, ...]) -> bool:
    """Whether a setting shapes the result of a stage that has begun."""
    return key not in MAY_CHANGE and any(stage in begun for stage in _readers(key))


def _readers(key: str) -> tuple[str, ...]:
    return READ_BY[key] if key in READ_BY else READ_BY[key.partition(".")[0]]


def _settings(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """`section.key` or `key`, and its value."""
    for part in type(config).model_fields:
        section = getattr(config, part)
        if isinstance(section, Section):
            for name in type(section).model_fields:
                yield f"{part}.{name}", getattr(section, name)
        else:
            yield part, section


def _plain(value: Any) -> Any:
    """In the form that JSON holds, for the hash."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
