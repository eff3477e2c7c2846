"""How differently a set of texts is worded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from align.data.rouge import rouge_l, words


@dataclass(frozen=True)
class Diversity:
    """Figures of some texts; more is more diverse."""

    distinct_1: float
    """Different words / words."""
    distinct_2: float
    """Different pairs of neighbours / pairs of neighbours (Li et al. 2016)."""
    dissimilarity: float
    """1 - ROUGE-L, over all two of the texts."""
    lengths: dict[int, int]
    """Texts by the number of their words, rounded up to a power of two."""


def diversity_of(texts: Sequence[str]) -> Diversity:
    """All two of the texts are compared: give some hundreds at most."""
    split = [words(text) for text in texts]
    alike = [rouge_l(ours, theirs) for ours, theirs in combinations(split, 2)]
    return Diversity(
        distinct_n(split, 1),
        distinct_n(split, 2),
        1 - sum(alike) / len(alike) if alike else 0.0,
        dict(sorted(Counter(1 << max(len(one) - 1, 0).bit_length() for one in split).items())),
    )


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams / n-grams, over all texts."""
    grams = [tuple(text[place : place + n]) for text in texts for place in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
