"""What sets of texts share: prompts of stages, and held-out texts that training has read in part.

Stages may share prompts (WebGPT, Nakano et al. 2021, arXiv:2112.09332, kept them apart), but what
one of them learns no other should hold out. A held-out text is contaminated if training has
thirteen of its words in a row, whatever their case and punctuation (Brown et al. 2020,
arXiv:2005.14165, appendix C); of Chinese and the like, words are characters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from align.data.dedup import near_duplicates
from align.data.messages import folded
from align.data.rouge import words

RUN = 13
"""Words in a row."""


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
    learnt: Iterable[str], held_out: Mapping[str, Sequence[str]]
) -> dict[str, Contamination]:
    """Of each held-out set. What is learnt is read once and not held."""
    runs = {name: [set(_runs(text)) for text in texts] for name, texts in held_out.items()}
    wanted = {run for texts in runs.values() for text in texts for run in text}
    seen = {run for text in learnt for run in _runs(text) if run in wanted}
    return {
        name: Contamination(
            len(texts), sum(map(bool, texts)), sum(not seen.isdisjoint(text) for text in texts)
        )
        for name, texts in runs.items()
    }


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    split = words(text)
    return (tuple(split[place : place + RUN]) for place in range(len(split) - RUN + 1))
