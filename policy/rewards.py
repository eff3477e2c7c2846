"""From the reward model's word to the score that PPO learns from.

Shapes: B answers.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and spread of all scores so far; a checkpoint keeps the three numbers."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    def including(self, scores_B: Tensor) -> "Moments":
        """These and more, as if all had come at once.

        Source: Chan, Golub and LeVeque 1983, on combining variances.
        """
        scores_B = scores_B.double()
        more, mean = len(scores_B), float(scores_B.mean())
        squares = float(((scores_B - mean) ** 2).sum())
        count, gap = self.count + more, mean - self.mean
        return Moments(
            count,
            self.mean + gap * more / count,
            self.squares + squares + gap**2 * self.count * more / count,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation; 1 while all scores are equal."""
        return (self.squares / self.count) ** 0.5 if self.squares else 1.0


def settled_scores(
    scores_B: Tensor,
    cut_B: Tensor,
    deviation: float,
    clip: float | None,
    missing_eos_penalty: float,
) -> Tensor:
    """Divide by the deviation, clip to [-clip, clip], take the penalty off where `cut_B` is 1.

    The mean is not subtracted: it would turn good answers into bad ones. The penalty comes last,
    so that neither scale nor clip changes what an unfinished answer costs. Source: Engstrom et al.
    2020 (arXiv:2005.12729), section 3, for scaling and clipping; Huang et al. 2024
    (arXiv:2403.17031), on the EOS trick, which there replaces the score.
    """
    scaled_B = scores_B / deviation
    clipped_B = scaled_B if clip is None else scaled_B.clamp(-clip, clip)
    return clipped_B - missing_eos_penalty * cut_B
