"""Prompts that several stages use, and held-out prompts that training has read in part.

Stages may share prompts (WebGPT, Nakano et al. 2021, arXiv:2112.09332, kept them apart), but what
one of them learns the others must not hold out. A held-out prompt is contaminated if 13 words in a
row stand in a training text too (Brown et al. 2020, arXiv:2005.14165, appendix C); a character of a
language without spaces is a word.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from align.data.messages import Message, cluster_id_of, folded

WORDS = 13
SPACELESS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # kana, Han, Hangul
WORD = re.compile(f"[{SPACELESS}]|[^\\s{SPACELESS}]+")


class Use(NamedTuple):
    """A prompt as a stage uses it, and the answers that it learns with it."""

    prompt: list[Message]
    answers: Sequence[str]
    held_out: bool


@dataclass(frozen=True)
class Overlap:
    """Different prompts of two stages that are equal but for case, spaces and Unicode form."""

    first: str
    second: str
    shared: int
    leaked: int
    """Of them, those that one stage holds out and the other one learns from."""


@dataclass(frozen=True)
class Contamination:
    """Held-out uses of a stage's prompts, those of WORDS words and more, and of these the
    contaminated ones."""

    held_out: int
    long: int
    contaminated: int


def overlaps(stages: Mapping[str, Sequence[Use]]) -> list[Overlap]:
    """Of every two stages."""
    sides: dict[str, dict[str, set[bool]]] = {}
    for name, uses in stages.items():
        mine = sides.setdefault(name, {})
        for use in uses:
            mine.setdefault(cluster_id_of(use.prompt), set()).add(use.held_out)
    found = []
    for first, second in combinations(sides, 2):
        both = sides[first].keys() & sides[second].keys()
        leaked = sum(len(sides[first][one] | sides[second][one]) > 1 for one in both)
        found.append(Overlap(first, second, len(both), leaked))
    return found


def contamination(stages: Mapping[str, Sequence[Use]]) -> dict[str, Contamination]:
    """Of the held-out prompts of each stage, by what any stage learns from."""
    held_out = {
        name: [set(_grams(_text(use.prompt))) for use in uses if use.held_out]
        for name, uses in stages.items()
    }
    wanted = {gram for uses in held_out.values() for grams in uses for gram in grams}
    learnt = (use for uses in stages.values() for use in uses if not use.held_out)
    texts = (text for use in learnt for text in (_text(use.prompt), *use.answers))
    seen = {gram for text in texts for gram in _grams(text) if gram in wanted}
    return {
        name: Contamination(
            len(uses), sum(map(bool, uses)), sum(not seen.isdisjoint(grams) for grams in uses)
        )
        for name, uses in held_out.items()
    }


def _text(prompt: Iterable[Message]) -> str:
    return "\n".join(message["content"] for message in prompt)


def _grams(text: str) -> Iterator[tuple[str, ...]]:
    words = WORD.findall(folded(text))
    return (tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))
