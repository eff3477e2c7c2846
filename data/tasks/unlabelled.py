"""Plain text made into labelled rows by rules, one for each kind of task.

Gu et al. 2022 (UDIT, arXiv:2210.09175): the sentence that says most of the rest is its summary; a
name that is left out is asked for among names of other texts; two sentences follow each other, or
are swapped. The rows are then put into the words of the template library.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from align.data.chance import pick, unit
from align.data.rouge import rouge_1_of_parts, words

SENTENCE = re.compile(r".+?(?:[.!?]+[\"']?(?=\s|\Z)|[。！？]+[”」』]?|\Z)", re.DOTALL)  # noqa: RUF001
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)*|(?<=《)[^《》]+(?=》)")
GAP = "____"
FEWEST = 3
"""Sentences of a text, below which no rule applies."""
DISTRACTORS = 3
NEIGHBOURS = 50
"""Texts before this one whose names are its distractors."""


@dataclass(frozen=True)
class Made:
    """A labelled row: the set of templates that words it, and its fields."""

    library: str
    rule: str
    fields: dict[str, str]
    choices: tuple[str, ...] = ()


def sentences(text: str) -> list[str]:
    """In the order of the text, without what stands between them."""
    return [found.strip() for found in SENTENCE.findall(text) if words(found)]


def gap_sentence(text: str) -> Made | None:
    """The sentence with the most in common with the rest, by ROUGE-1, is its summary."""
    parts = sentences(text)
    if len(parts) < FEWEST:
        return None
    scores = rouge_1_of_parts([words(part) for part in parts])
    best = max(range(len(parts)), key=scores.__getitem__)
    rest = " ".join(parts[:best] + parts[best + 1 :])
    return Made("summarisation", "gap-sentence", {"document": rest, "summary": parts[best]})


def missing_name(text: str, others: Sequence[str], *key: object) -> Made | None:
    """A name is left out; the choices are it and names that the text does not have."""
    names = list(dict.fromkeys(NAME.findall(text)))
    wrong = [name for name in dict.fromkeys(others) if name not in text]
    if not names or len(wrong) < DISTRACTORS:
        return None
    gold = names[pick(len(names), "name", *key)]
    wrong = sorted(wrong, key=lambda name: unit("distractor", *key, name))[:DISTRACTORS]
    choices = sorted([gold, *wrong], key=lambda name: unit("order", *key, name))
    gapped = text.replace(gold, GAP)
    return Made("classification", "missing-name", {"text": gapped, "label": gold}, tuple(choices))


def sentence_order(text: str, names: tuple[str, str], *key: object) -> Made | None:
    """Two neighbours as they stand, or swapped; `names` are the two answers."""
    parts = sentences(text)
    if len(parts) < FEWEST:
        return None
    place = pick(len(parts) - 1, "place", *key)
    swapped = unit("swap", *key) < 0.5
    pair = parts[place : place + 2][:: -1 if swapped else 1]
    fields = {"text": "\n".join(pair), "label": names[swapped]}
    return Made("classification", "sentence-order", fields, names)


ORDERED = {"en": ("in order", "swapped"), "zh": ("顺序正确", "顺序颠倒")}


class Labeller:
    """Labels texts in the order in which they come: names of earlier ones are the wrong choices."""

    def __init__(self, language: str, seed: int) -> None:
        self._order = ORDERED[language]
        self._seed = seed
        self._names: deque[list[str]] = deque(maxlen=NEIGHBOURS)

    def label(self, text: str) -> Made | None:
        """A row of one of the rules that apply, chosen by hash; None if none does."""
        others = [name for names in self._names for name in names]
        key = (self._seed, text)
        made = [
            gap_sentence(text),
            missing_name(text, others, *key),
            sentence_order(text, self._order, *key),
        ]
        self._names.append(list(dict.fromkeys(NAME.findall(text))))
        fitting = [one for one in made if one is not None]
        return fitting[pick(len(fitting), "rule", *key)] if fitting else None
