"""Prompts that people wrote, and answers that other people wrote (Ouyang et al. 2022, appendix A).

Prompts that share a long beginning are taken once, at most so many of a person, and all prompts of
a person are in one split.
"""

from collections import Counter

from align.data.exchanges import Exchange
from align.data.files import Row, text
from align.data.instruction_config import People
from align.data.messages import folded, sha256_of
from align.data.rejects import BadRow


class Admission:
    """Which prompts are taken, in the order in which they come."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._taken: Counter[str] = Counter()
        self._beginnings: set[str] = set()

    def group(self, row: Row, exchange: Exchange) -> str | None:
        """The author's name among the splits, or None if the prompt is not taken.

        Raises: BadRow if an author is missing, or wrote both prompt and answer.
        """
        author = _author(row, self._people.prompt_author)
        answered_by = self._people.answer_author
        if answered_by is not None and exchange.completion is not None:
            if answered_by not in row:
                reason = "no such column: name another as people.answer_author, or null for none"
                raise BadRow(answered_by, reason)
            if _author(row, answered_by) == author:
                raise BadRow(answered_by, f"{author} answered an own prompt")
        beginning = sha256_of(folded(exchange.prompt[-1]["content"])[: self._people.shared_prefix])
        if beginning in self._beginnings or self._taken[author] == self._people.max_prompts:
            return None
        self._beginnings.add(beginning)
        self._taken[author] += 1
        return f"author {author}"


def _author(row: Row, name: str) -> str:
    author = str(row[name]) if isinstance(row.get(name), int) else text(row, name)
    if not author:
        raise BadRow(name, "names nobody")
    return author
