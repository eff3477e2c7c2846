"""What sets of texts share: prompts of stages, and held-out texts that training has read in part.

Stages may share prompts (WebGPT, Nakano et al. 2021, arXiv:2112.09332, kept them apart), but what
one of them learns no other should hold out. A held-out text is contaminated if training has
thirteen of its words in a row, whatever their case and punctuation (Brown et al. 2020,
arXiv:2005.14165, appendix C); of Chinese and the like, words are characters.
Legend: W runs of words that are looked for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from align.data.dedup import MULTIPLIERS, near_duplicates
from align.data.hashing import Words, mixed
from align.data.messages import folded
from align.data.rouge import words

RUN = 13
"""Words in a row."""
NOTHING: Words = np.empty(0, dtype=np.uint64)
LAST: Words = np.array([np.iinfo(np.uint64).max])
"""Whatever is looked for among the words that end in it has a place there."""


@dataclass(frozen=True)
class Overlap:
    """Two sets, and how many different texts of the first are in the second."""

    first: str
    second: str
    texts: int
    """Different texts of the first set, but for case, spaces and Unicode form."""
    same: int
    near: int
    """Including those that are the same; see `data/dedup.py`."""


@dataclass(frozen=True)
class Contamination:
    """A held-out set: its texts, those of RUN words and more, and of these the contaminated ones.

    Shorter texts are left to `Overlap`.
    """

    texts: int
    long: int
    found: int


def overlaps(
    learnt: Mapping[str, Iterable[str]], held_out: Mapping[str, Iterable[str]]
) -> list[Overlap]:
    """Of every two sets, but for two that are held out. The texts are held in memory."""
    texts = {name: dict.fromkeys(map(folded, one)) for name, one in {**learnt, **held_out}.items()}
    everything = [text for one in texts.values() for text in one]
    component = near_duplicates(everything, list(map(str, range(len(everything))))).tolist()
    places = iter(component)
    components = {name: [next(places) for _ in one] for name, one in texts.items()}
    return [
        Overlap(
            first,
            second,
            len(texts[first]),
            len(texts[first].keys() & texts[second].keys()),
            sum(map(set(components[second]).__contains__, components[first])),
        )
        for first, second in (*combinations(learnt, 2), *product(learnt, held_out))
    ]


def contamination(
    learnt: Iterable[str], held_out: Mapping[str, Iterable[str]]
) -> dict[str, Contamination]:
    """Of each held-out set. Texts are read once and not held: a held-out word costs 8 bytes."""
    runs = {name: [_runs(text) for text in texts] for name, texts in held_out.items()}
    everything = [text for texts in runs.values() for text in texts]
    wanted_W = np.unique(np.concatenate([LAST, *everything]))
    seen_W = np.zeros(len(wanted_W), dtype=bool)
    for text in learnt:
        found = _runs(text)
        places = np.searchsorted(wanted_W, found)
        seen_W[places[wanted_W[places] == found]] = True
    return {
        name: Contamination(
            len(texts),
            sum(map(bool, map(len, texts))),
            sum(bool(seen_W[np.searchsorted(wanted_W, text)].any()) for text in texts),
        )
        for name, texts in runs.items()
    }


def _runs(text: str) -> Words:
    """Hashes of the runs of words of a text; they hold in this process."""
    codes = np.fromiter(map(hash, words(text)), dtype=np.int64).astype(np.uint64)
    if len(codes) < RUN:
        return NOTHING
    windows = np.lib.stride_tricks.sliding_window_view(codes, RUN)
    return np.unique(mixed(windows @ MULTIPLIERS[:RUN]))
