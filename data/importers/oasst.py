"""OpenAssistant conversation trees: sibling assistant replies that people have ranked.

One tree a line; a reply's `rank` is 0 for the best, agreed on by many rankings of volunteers. The
prompt is the whole conversation above the siblings. Replies that are deleted, synthetic (written by
a model) or without a rank are left out, and a ranking needs two that stay. All prompts of a tree
share a cluster, since one prompt contains answers to another. Apache-2.0, OpenAssistant/oasst1.
"""

from collections.abc import Iterator
from pathlib import Path

from align.data.files import Row, column, text
from align.data.importers.header import Located, header, located
from align.data.messages import Message, shown
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

ROLES = {"prompter": "user", "assistant": "assistant"}


def read(path: Path, rejects: Rejects) -> Iterator[Located]:
    """One ranking per set of siblings."""
    file = path / "trees.jsonl" if path.is_dir() else path
    return located(file, rejects, _tree_rankings)


def _tree_rankings(tree: Row) -> Iterator[Record]:
    root = column(tree, "prompt")
    if not isinstance(root, dict):
        raise BadRow("prompt", f"must be the tree's first message, found {shown(root)}")
    waiting: list[tuple[Row, list[Message]]] = [(root, [])]
    while waiting:
        message, above = waiting.pop()
        conversation = [*above, _turn(message)]
        replies = message.get("replies", [])
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise BadRow("replies", f"must be a list of messages, found {shown(replies)}")
        if (ranked := [reply for reply in replies if _is_ranked(reply)])[1:]:
            yield _ranking(text(tree, "message_tree_id"), message, conversation, ranked)
        waiting += [(reply, conversation) for reply in reversed(replies)]


def _turn(message: Row) -> Message:
    role = ROLES.get(text(message, "role"))
    if role is None:
        raise BadRow("role", f"must be prompter or assistant, found {shown(message['role'])}")
    return {"role": role, "content": text(message, "text")}


def _is_ranked(reply: Row) -> bool:
    dropped = reply.get("deleted") or reply.get("synthetic")
    return reply.get("role") == "assistant" and not dropped and reply.get("rank") is not None


def _ranking(tree_id: str, parent: Row, prompt: list[Message], replies: list[Row]) -> Record:
    ranks = [reply["rank"] for reply in replies]
    if not all(isinstance(rank, int) for rank in ranks):
        raise BadRow("rank", f"must be whole numbers, found {shown(ranks)}")
    dense = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
    return header(
        "ranking",
        f"oasst-{text(parent, 'message_id')}",
        prompt,
        [[_turn(reply)] for reply in replies],
        source="oasst",
        license="Apache-2.0",
        annotator_id="oasst-volunteers",
        guideline_version="oasst1",
        cluster_id=f"oasst-{tree_id}",
        completion_ids=[text(reply, "message_id") for reply in replies],
    ) | {"ranks": [dense[rank] for rank in ranks]}
