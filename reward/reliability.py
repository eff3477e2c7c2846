"""How far a reward model's preferences can be trusted."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """What a reward model said of one pair."""

    gap: float
    """Score of the chosen answer minus that of the rejected."""
    target_prob: float
    """How sure people are of the chosen answer; 0.5 is a tie."""
    weight: float = 1.0

    @property
    def probability(self) -> float:
        """P(chosen is better), as the model sees it."""
        return 1 / (1 + math.exp(-self.gap)) if self.gap > -700 else 0.0

    @property
    def log_loss(self) -> float:
        """Nats; softplus in the form that cannot overflow."""
        softplus = max(-self.gap, 0.0) + math.log1p(math.exp(-abs(self.gap)))
        return softplus + (1 - self.target_prob) * self.gap


@dataclass(frozen=True)
class Share:
    """A share of n cases, with its 95 % interval."""

    n: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Slice(Share):
    """Some of the pairs: accuracy over the n that are no ties, the rest over all."""

    log_loss: float
    ece: float


@dataclass(frozen=True)
class LengthBias:
    """Whether the model goes by length: over n decided pairs whose answers differ in length."""

    n: int
    longer_chosen: float
    """Share in which people preferred the longer answer: what `longer wins` would be right on."""
    longer_scored: float
    """Share in which the model scores the longer one higher."""
    correlation: float
    """Pearson's, of the score gap with the difference in tokens; NaN where one does not vary."""


@dataclass(frozen=True)
class Bin:
    """Predictions of like confidence: how sure they were, how often they were right."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Coverage:
    """The surest share of the predictions, and how many of these are wrong."""

    coverage: float
    risk: float


def summarise(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """accuracy and margin over the pairs that are no ties; log_loss and ece over all."""
    decided = [outcome for outcome in outcomes if outcome.target_prob != 0.5]
    weight = sum(outcome.weight for outcome in outcomes)
    bins = calibration(outcomes)
    return {
        "accuracy": _mean([float(outcome.gap > 0) for outcome in decided]),
        "margin": _mean([outcome.gap for outcome in decided]),
        "log_loss": sum(outcome.weight * outcome.log_loss for outcome in outcomes) / weight,
        "ece": expected_calibration_error(bins),
    }


def slices(outcomes: Sequence[Outcome], labels: Sequence[Sequence[str]]) -> dict[str, Slice]:
    """The outcomes by label; each may have several. A label of ties alone is left out."""
    members: dict[str, list[Outcome]] = defaultdict(list)
    for outcome, names in zip(outcomes, labels, strict=True):
        for name in names:
            members[name].append(outcome)
    found = {}
    for name, some in sorted(members.items()):
        decided = [outcome for outcome in some if outcome.target_prob != 0.5]
        if decided:
            share = wilson(sum(outcome.gap > 0 for outcome in decided), len(decided))
            numbers = summarise(some)
            found[name] = Slice(**vars(share), log_loss=numbers["log_loss"], ece=numbers["ece"])
    return found


def length_bias(outcomes: Sequence[Outcome], longer_by: Sequence[int]) -> LengthBias | None:
    """`longer_by` is how many tokens the chosen answer is longer; None where none differ."""
    cases = [
        (outcome.gap, tokens)
        for outcome, tokens in zip(outcomes, longer_by, strict=True)
        if outcome.target_prob != 0.5 and tokens
    ]
    if not cases:
        return None
    gaps, tokens = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    varies = gaps.std() > 0 and tokens.std() > 0
    return LengthBias(
        n=len(cases),
        longer_chosen=float((tokens > 0).mean()),
        longer_scored=float((gaps * tokens > 0).mean()),
        correlation=float(np.corrcoef(gaps, tokens)[0, 1]) if varies else math.nan,
    )


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Chance that a positive case scores higher than a negative one, ties half; None without both.

    By ranks (Mann and Whitney 1947).
    """
    score_N, positive_N = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    count = int(positive_N.sum())
    others = len(positive_N) - count
    if not count or not others:
        return None
    _, group_N, size_G = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(size_G) - (size_G - 1) / 2)[group_N]
    return float((rank_N[positive_N].sum() - count * (count + 1) / 2) / (count * others))


def wilson(successes: float, n: int) -> Share:
    """Wilson's score interval (Wilson 1927), which stays sensible at 0, at 1 and for small n."""
    assert n > 0
    z = 1.959964
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Share(n, share, max(0.0, centre - half), min(1.0, centre + half))


def calibration(outcomes: Sequence[Outcome]) -> list[Bin]:
    """Ten bins of confidence over [0.5, 1].

    A prediction below 1/2 is the opposite prediction with the opposite target.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(10)]
    for sure, right in map(_sure_and_right, outcomes):
        bins[min(9, int((sure - 0.5) * 20))].append((sure, right))
    return [
        Bin(sum(s for s, _ in part) / len(part), sum(r for _, r in part) / len(part), len(part))
        for part in bins
        if part
    ]


def risk_coverage(outcomes: Sequence[Outcome]) -> list[Coverage]:
    """The share of errors among the surest tenth, fifth and so on up to all predictions.

    It falls towards the surest where a model knows what it does not know: then it may abstain from
    the rest. Source: El-Yaniv and Wiener 2010, "On the foundations of noise-free selective
    classification", section 2.
    """
    ordered = sorted(map(_sure_and_right, outcomes), key=lambda one: -one[0])
    points = []
    for tenth in range(1, 11):
        kept = ordered[: math.ceil(len(ordered) * tenth / 10)]
        if kept:
            points.append(Coverage(tenth / 10, 1 - sum(right for _, right in kept) / len(kept)))
    return points


def _sure_and_right(outcome: Outcome) -> tuple[float, float]:
    """P(the answer that the model prefers is better), by the model and by people."""
    sure = max(outcome.probability, 1 - outcome.probability)
    return sure, outcome.target_prob if outcome.gap >= 0 else 1 - outcome.target_prob


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of confidence and accuracy, weighted by n (Guo et al. 2017, eq. 5)."""
    total = sum(part.n for part in bins)
    return sum(part.n * abs(part.confidence - part.accuracy) for part in bins) / total


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
