"""What `align run --dry-run` prints: the plan as comments, then the resolved config as YAML."""

from pathlib import Path

from align.pipeline.config import RunConfig
from align.pipeline.loading import dump_config


def describe(config: RunConfig, stages: tuple[str, ...], run_dir: Path) -> str:
    """YAML that `--config` accepts: everything but the config itself is a comment."""
    plan = {"stages": ", ".join(stages), "run dir": str(run_dir)}
    for stage in stages:
        plan[stage] = SIZES[stage](config)
    plan["micro-batch"] = _micro_batch(config)
    width = max(map(len, plan)) + 2
    comments = "\n".join(f"# {name:<{width}}{text}" for name, text in plan.items())
    return f"{comments}\n{dump_config(config)}"


def _sft(config: RunConfig) -> str:
    rows = config.sft.batch_size
    text = f"{rows} rows per optimiser step, {rows // config.train.ranks} on each rank"
    if config.sft.packing:
        text += f"; up to {rows * config.data.max_length} tokens, packed"
    return text


def _rm(config: RunConfig) -> str:
    return f"{config.rm.batch_size} preference groups per optimiser step"


def _ppo(config: RunConfig) -> str:
    ppo = config.ppo
    units = -(-ppo.batch_size // config.rollout.rows_per_unit)
    return (
        f"{ppo.steps} steps of {ppo.batch_size} answers ({ppo.steps * ppo.batch_size} in all); "
        f"each step {units} units of work for {config.rollout.workers} workers, then "
        f"{ppo.epochs * ppo.minibatches} optimiser steps of {ppo.batch_size // ppo.minibatches}"
    )


def _micro_batch(config: RunConfig) -> str:
    train, longest = config.train, config.data.max_length
    return (
        f"{train.micro_batch_tokens} tokens: {train.micro_batch_tokens // longest} texts of the "
        f"full {longest} tokens at once, more when shorter"
    )


SIZES = {"sft": _sft, "rm": _rm, "ppo": _ppo}
