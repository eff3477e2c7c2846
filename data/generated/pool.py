"""The instructions so far, and which new ones are new enough to join them.

Wang et al. 2022 (Self-Instruct, arXiv:2212.10560, section 2.2) keep an instruction if its ROUGE-L
with every other one is below 0.7 and it asks for nothing that a language model cannot do.
"""

from collections import Counter
from collections.abc import Iterable

from align.data.messages import folded
from align.data.rouge import rouge_l, words

SIMILAR = 0.7
SHORTEST, LONGEST = 3, 150
"""Words of an instruction."""
IMPOSSIBLE = frozenset(
    {"image", "images", "picture", "pictures", "photo", "graph", "graphs", "video", "audio", "plot"}
    | {"diagram", "map", "file", "files", "draw"}
)
"""What a model of text can neither see nor make."""
CHINESE = ("图片", "图像", "照片", "视频", "音频", "画图", "绘制")


class Pool:
    """Instructions by people and by the model; grows with every one that is accepted."""

    def __init__(self, seeds: Iterable[str]) -> None:
        self.human = list(seeds)
        self.machine: list[str] = []
        self.rejected: Counter[str] = Counter()
        """Reason -> how often."""
        self._words = [words(one) for one in self.human]
        self._instances: dict[tuple[str, str], str] = {}

    def accepts(self, instruction: str) -> bool:
        """Whether it joined, also against those that joined a moment ago; else why is counted."""
        reason = self._objection(instruction)
        if reason is not None:
            self.rejected[reason] += 1
            return False
        self._join(instruction)
        return True

    def recall(self, instruction: str, given: str, output: str) -> None:
        """Take in an instance that was accepted before, as it is."""
        if instruction not in self.machine:
            self._join(instruction)
        self._instances[folded(instruction), folded(given)] = output

    def accepts_instance(self, instruction: str, given: str, output: str) -> bool:
        """Whether the instance says something, and nothing else than one before it."""
        reason = None
        if not output.strip():
            reason = "the output is empty"
        elif given.strip() and folded(given) == folded(output):
            reason = "the output is the input"
        elif (folded(instruction), folded(given)) in self._instances:
            reason = "the input came before"
        if reason is not None:
            self.rejected[reason] += 1
            return False
        self._instances[folded(instruction), folded(given)] = output
        return True

    def _join(self, instruction: str) -> None:
        self.machine.append(instruction)
        self._words.append(words(instruction))

    def _objection(self, instruction: str) -> str | None:
        mine = words(instruction)
        if not SHORTEST <= len(mine) <= LONGEST:
            return "too short or too long"
        if IMPOSSIBLE & set(mine) or any(word in instruction for word in CHINESE):
            return "asks for what is no text"
        if any(rouge_l(mine, other) >= SIMILAR for other in self._words):
            return "too similar"
        return None
