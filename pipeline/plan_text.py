"""What `align plan` prints: who does what, memory by stage, whether it fits and what to change."""

from collections.abc import Iterator
from typing import Any

from align.pipeline.plan import GIB, Plan, what_helps
from align.policy.config import LoRAConfig


def describe(plan: Plan) -> str:
    """The plan as text: placement, memory by stage, whether it fits and what to change."""
    return "\n".join([*_head(plan), "", *_table(plan), "", *_verdict(plan)]) + "\n"


def _head(plan: Plan) -> Iterator[str]:
    placed, source = plan.placed, plan.config.model.path
    yield f"model      {source}: {plan.shape.parameters / 1e6:,.1f} million parameters"
    where = f"{_count(placed.ranks, 'rank')}, {_count(placed.workers, 'rollout worker')}"
    if not plan.on_gpus:
        yield f"placement  {where} on CPUs of {_count(plan.config.cluster.nodes, 'machine')}"
        return
    apart = f"workers apart, on {placed.worker_gpus} of them"
    yield (
        f"placement  {where} on {_count(placed.gpus, 'GPU')}, "
        f"{apart if placed.worker_gpus else 'workers on those of the ranks'}"
    )
    idle = plan.config.cluster.nodes * plan.config.cluster.gpus_per_node - placed.gpus
    if idle > 0:
        yield f"           {_count(idle, 'GPU')} idle: raise train.ranks or cluster.rollout_gpus"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(plan: Plan) -> Iterator[str]:
    columns = {**plan.stages, "rollouts": plan.worker}
    names = list(dict.fromkeys(name for parts in columns.values() for name in parts))
    yield f"{'GiB of one process':<20}" + "".join(f"{column:>10}" for column in columns)
    for name in names:
        cells = (
            f"{parts[name] / GIB:>10.3f}" if parts.get(name) else f"{'-':>10}"
            for parts in columns.values()
        )
        yield f"{name:<20}" + "".join(cells)
    sums = (f"{sum(parts.values()) / GIB:>10.3f}" for parts in columns.values())
    yield f"{'together':<20}" + "".join(sums)


def _verdict(plan: Plan) -> Iterator[str]:
    for place, (needed, there) in plan.places.items():
        word = "fits" if needed <= there else "too much"
        yield f"{place}: {needed / GIB:.1f} of {there / GIB:.1f} GiB: {word}"
    if plan.on_gpus:
        yield f"a machine, while models load: {plan.host / GIB:.0f} GiB of its own memory"
    if plan.fits:
        return
    help_ = what_helps(plan)
    if help_ is None:
        yield "nothing here makes it fit: take larger GPUs, more of them, or a smaller model"
        return
    changes, better = help_
    flags = " ".join(f"--set {key}={_yaml(value)}" for key, value in changes.items())
    then = ", ".join(f"{n / GIB:.1f} of {t / GIB:.1f} GiB" for n, t in better.places.values())
    yield f"it fits with {flags} ({then})"


def _yaml(value: Any) -> str:
    if isinstance(value, LoRAConfig):
        return f"'{{r: {value.r}, alpha: {value.alpha}}}'"
    return str(value).lower()
