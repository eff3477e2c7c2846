"""The hidden taste of the demo's simulated annotators: a score of an answer by its words alone.

    taste = tone + 0.6 ending - 1.5 repetition - unfinished - brevity

- tone, -1 to 1: cheerful less gloomy sentences, saturating after three or four.
- ending, -1 to 1: the mood of the last sentence.
- repetition, 0 to 1: the share of word pairs that were said before (1 - distinct-2).
- unfinished, 0 or 1: the last sentence has no full stop.
- brevity, 0 to 1: how far the answer is from twelve words.

Spamming does not pay: a feeling word counts once in an answer, a sentence gets credit for one
feeling word in four words and none if most of its words are feeling words, and repeated pairs
cost. No trained model sees this file: the reward model learns the taste from the annotators'
judgements, and evaluation compares with it.
"""

import math
import re
from itertools import pairwise

NOTHING_SAID = -3.0  # the score of an empty answer

CHEERFUL_WORDS = """
best brave bright cheered clapped danced fun funny friends game gift glad good happily happy hug
hugged joke joy kind kiss kissed laughed laughing love loved lovely nice play played pretty proud
safe sang share shared shiny smile smiled song sunny surprise thank thanked warm wonderful yummy
"""
GLOOMY_WORDS = """
afraid alone angry bad bite broke broken chased cold cried cry crying dark dead died dirty dragon
fell ghost gone growled hungry hurt late lonely lost mad mean missed monster never nobody noise
rainy sad sadly scared scary screamed shy sick snake sorry stormy tired ugly weak witch wolf
worried wrong
"""
CHEERFUL = frozenset(CHEERFUL_WORDS.split())
GLOOMY = frozenset(GLOOMY_WORDS.split())


def taste(answer: str) -> float:
    """How much the annotators like an answer; higher is better."""
    words = _words(answer)
    if not words:
        return NOTHING_SAID
    brevity = max(0.0, 1 - len(words) / 12)
    unfinished = 0.0 if is_finished(answer) else 1.0
    return tone(answer) + 0.6 * ending(answer) - 1.5 * repetition(answer) - unfinished - brevity


def tone(answer: str) -> float:
    """Cheerful (1) or gloomy (-1)."""
    moods, heard = list[float](), set[str]()
    for words in _sentences(answer):
        moods.append(_mood(words, set(words) - heard))
        heard.update(words)
    return math.tanh(sum(moods))


def ending(answer: str) -> float:
    """A warm (1) or a sad (-1) last sentence."""
    sentences = _sentences(answer)
    return math.tanh(2 * _mood(sentences[-1], set(sentences[-1]))) if sentences else 0.0


def repetition(answer: str) -> float:
    """The share of neighbouring word pairs that occurred before."""
    pairs = list(pairwise(_words(answer)))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def is_finished(answer: str) -> bool:
    """The last sentence ends."""
    return answer.rstrip().rstrip("\"'").endswith((".", "!", "?"))


def _mood(words: list[str], counted: set[str]) -> float:
    """Cheerful less gloomy words among those that count, in proportion to the sentence."""
    cheerful, gloomy = len(counted & CHEERFUL), len(counted & GLOOMY)
    if cheerful + gloomy > len(words) / 2:
        return 0.0
    credit = len(words) / 4
    return (min(cheerful, credit) - min(gloomy, credit)) / math.sqrt(len(words))


def _sentences(answer: str) -> list[list[str]]:
    return [words for text in re.split(r"[.!?]+", answer) if (words := _words(text))]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
