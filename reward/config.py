"""What the user says about the reward model. No torch here."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from align.data.config import Section


class RewardConfig(Section):
    """How raw feedback becomes pairs, and how the reward model learns from them."""

    epochs: int = Field(default=1, gt=0)
    """Passes over the pairs."""
    batch_size: int = Field(default=32, gt=0)
    """Preference groups (one prompt, its ranked answers) per optimiser step."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    centering_coef: float = Field(default=0.01, ge=0)
    """Weight of (r_chosen + r_rejected)^2, which keeps rewards near 0."""
    ties: Literal["soft", "drop"] = "soft"
    """A tie becomes a pair with target probability 1/2, or none."""
    model: Path | None = None
    """Start from this model instead of the run's `sft/final`."""
