"""ROUGE: how much two texts have in common, by words, or by characters where nobody spaces words.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
"""

import re
from collections import Counter
from collections.abc import Sequence

# A word of letters and digits, or a single character of a script without spaces.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0e7f"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def words(text: str) -> list[str]:
    """Lower-case words; of Chinese and the like, characters."""
    return WORD.findall(text.casefold())


def rouge_l(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """F1 of the longest common subsequence, in [0, 1]; 0 if either is empty."""
    return _f1(common_subsequence(ours, theirs), len(ours), len(theirs))


def rouge_1_of_parts(parts: Sequence[Sequence[str]]) -> list[float]:
    """Of each part with all others together: F1 of the common words, each as often as both have it.

    Its time grows with the words, not with their square.
    """
    all_words = Counter(word for part in parts for word in part)
    total = all_words.total()
    scores = []
    for part in parts:
        common = sum(min(n, all_words[word] - n) for word, n in Counter(part).items())
        scores.append(_f1(common, len(part), total - len(part)))
    return scores


def common_subsequence(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest one, with one long integer as the row of the table.

    Bit i of `row` is 0 where the table grows at the i-th of our words (Hyyrö 2004).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(ours):
        places[word] = places.get(word, 0) | 1 << place
    everything = (1 << len(ours)) - 1
    row = everything
    for word in theirs:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & everything
    return len(ours) - row.bit_count()


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0
