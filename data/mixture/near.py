"""Rows that are nearly the same: one split for their prompts, and one row for all of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from align.data.dedup import near_duplicates
from align.data.exchanges import Instruction
from align.data.messages import prompt_id_of
from align.data.splits import Assigned, Split, assign
from align.data.text_hashes import content_hash, content_text, prompt_text


@dataclass(frozen=True)
class Near:
    """What is known once all rows were read."""

    splits: dict[str, Split]
    """Of each group; see `Instruction.group`."""
    content: dict[int, int]
    """Hash of a row -> that of the first row that says nearly the same."""
    assigned: dict[str, Assigned]
    """Old and new prompts with their splits, for the file that freezes them."""
    leaks: tuple[str, ...]
    """New prompts that are near to old ones of both splits."""


def near(rows: Iterable[Instruction], old: Mapping[str, Assigned], held_out: float) -> Near:
    """The texts of all rows are held in memory."""
    prompts: dict[str, tuple[str, str]] = {}
    groups: dict[str, str] = {}
    contents: dict[int, str] = {}
    for row in rows:
        name = prompt_id_of(row.asked or row.completion or [])
        prompts.setdefault(name, (prompt_text(row), row.group))
        groups.setdefault(row.group, name)  # two groups may share a prompt
        contents.setdefault(content_hash(row), content_text(row))
    assigned, leaks = assign(old, prompts, held_out)
    hashes = list(contents)
    component = near_duplicates(list(contents.values()), list(map(str, hashes)))
    return Near(
        {group: assigned[name].split for group, name in groups.items()},
        {mine: hashes[first] for mine, first in zip(hashes, component.tolist(), strict=True)},
        assigned,
        leaks,
    )
