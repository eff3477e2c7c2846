"""When PPO must stop: one line that says why, before anything of the step is kept or sampled from.

All ranks see the same numbers, so all of them stop. What would mend a run shapes it from its
beginning, so most remedies are a run of their own.
"""

import math
from collections.abc import Mapping

from align.data.errors import UserError
from align.pipeline.config import RunConfig

LOGPROB_TOLERANCE = {"fp32": 1e-3, "bf16": 0.5, "fp16": 0.1}
"""Nats by which two passes over a token may differ, for rounding in other batch shapes."""


def check_agreement(gap: float, config: RunConfig) -> None:
    """Stop if the workers sampled from other weights than the trainer's (trl#5312).

    `gap` is the largest difference on a token, in nats; NaN does not pass.
    """
    limit = LOGPROB_TOLERANCE[config.train.precision]
    if not gap <= limit:
        raise UserError(
            f"rollout workers and trainer disagree by {gap:.2g} nats on a token (limit {limit:g}): "
            "the workers do not hold the trainer's weights, or compute otherwise. Start again in "
            "another --run-dir with train.precision fp32; if that is what you have, report it"
        )


def check_drift(kl: float, config: RunConfig, step: int) -> None:
    """Stop if the policy is too far from its reference; `kl` in nats per answer."""
    limit = config.ppo.kl_limit
    if limit is not None and not kl <= limit:
        raise UserError(
            f"ppo, step {step + 1}: the policy is {kl:.3g} nats an answer away from its reference, "
            f"past ppo.kl_limit ({limit:g}). Start again in another --run-dir with a higher "
            "ppo.kl_coef or a lower ppo.learning_rate, or let it go further"
        )


def check_first_pass(gap: float, config: RunConfig, step: int) -> None:
    """Stop if the ratio is not 1 before the first update of a step (trl#454)."""
    limit = LOGPROB_TOLERANCE[config.train.precision]
    if not gap <= limit:
        raise UserError(
            f"ppo, step {step + 1}: before its update the policy gives a token another probability "
            f"than a moment ago, by {gap:.2g} nats (limit {limit:g}), so the ratio does not begin "
            "at 1. The model does not repeat itself: look for dropout or random routing in it"
        )


def check_finite(metrics: Mapping[str, float], config: RunConfig, step: int) -> None:
    """Stop at a loss or gradient that is no number."""
    # In fp16 an infinite gradient is in order: DeepSpeed skips that step and scales less.
    names = ("loss",) if config.train.precision == "fp16" else ("loss", "grad_norm")
    for name in names:
        if not math.isfinite(metrics[name]):
            raise UserError(
                f"ppo, step {step + 1}: {name} is {metrics[name]}, and nothing can be learnt any "
                "more. Start again in another --run-dir with a lower ppo.learning_rate and "
                "ppo.critic_learning_rate, or with train.precision fp32"
            )
