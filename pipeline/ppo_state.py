"""What PPO adapts from step to step beside the weights: the KL coefficient and the score's scale.

Shapes: B answers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from align.policy.config import PPOConfig
from align.policy.kl import adapted_coef
from align.policy.rewards import Moments, settled_scores


@dataclass(frozen=True)
class Adapted:
    """A checkpoint keeps these numbers: verl#2653 began again with the first coefficient."""

    kl_coef: float
    moments: Moments

    @classmethod
    def restored(cls, numbers: Mapping[str, float], ppo: PPOConfig) -> "Adapted":
        """What `numbers` said at a checkpoint, or the beginning where there was none."""
        kept = dict(numbers)
        return cls(kept.pop("kl_coef", ppo.kl_coef), Moments(**kept))

    @property
    def numbers(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"kl_coef": self.kl_coef, **asdict(self.moments)}

    def settled(
        self, raw_scores_B: Tensor, cut_B: Tensor, ppo: PPOConfig
    ) -> tuple["Adapted", Tensor]:
        """The scores to learn from, and what is known of their scale once they are in."""
        moments = self.moments.including(raw_scores_B) if ppo.scale_scores else self.moments
        scores_B = settled_scores(
            raw_scores_B, cut_B, moments.deviation, ppo.score_clip, ppo.missing_eos_penalty
        )
        return replace(self, moments=moments), scores_B

    def after(self, kl: float, ppo: PPOConfig) -> "Adapted":
        """The coefficient of the next step; `kl` is what this one found, in nats per answer."""
        if ppo.kl_target is None:
            return self
        coef = adapted_coef(self.kl_coef, kl, ppo.kl_target, ppo.batch_size, ppo.kl_horizon)
        return replace(self, kl_coef=coef)
