"""OpenAssistant conversation trees: sibling assistant replies that people have ranked.

One tree a line (`*_trees.jsonl`), or one message a row with its `parent_id` (the Parquet files of
OpenAssistant/oasst1 and oasst2), of which all are held in memory. A reply's `rank` is 0 for the
best, agreed on by many rankings of volunteers. The prompt is the whole conversation above the
siblings. Replies that are deleted, synthetic (written by a model) or without a rank are left out,
and a ranking needs two that stay. All prompts of a tree share a cluster, since one prompt contains
answers to another. Apache-2.0.
"""

from collections.abc import Iterator
from pathlib import Path

from align.data.files import Row, column, read_rows, text
from align.data.importers.header import Located, header
from align.data.messages import Message, shown
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

ROLES = {"prompter": "user", "assistant": "assistant"}


def read(path: Path, rejects: Rejects) -> Iterator[Located]:
    """One ranking per set of siblings."""
    file = path / "trees.jsonl" if path.is_dir() else path
    messages: dict[str, tuple[int, Row]] = {}

    def rows() -> Iterator[tuple[int, Row]]:
        for line, row in read_rows(file, rejects):
            if "parent_id" not in row or "prompt" in row:
                yield line, row
            elif (name := str(row.get("message_id"))) in messages:
                rejects.add(file, line, "message_id", "is the id of an earlier message")
            else:
                messages[name] = line, row | {"replies": []}
        yield from _trees(messages, file, rejects)

    for line, tree in rows():
        try:
            yield from [(file, line, record) for record in list(_tree_rankings(tree))]
        except BadRow as bad:
            rejects.add(file, line, bad.field, bad.reason)


def _trees(
    messages: dict[str, tuple[int, Row]], file: Path, rejects: Rejects
) -> Iterator[tuple[int, Row]]:
    """Messages below those that they reply to, each tree with the line of its first message."""
    for _, message in messages.values():
        if str(message["parent_id"]) in messages:
            messages[str(message["parent_id"])][1]["replies"].append(message)
    roots = [found for found in messages.values() if found[1]["parent_id"] is None]
    waiting, reached = [root for _, root in roots], set()
    while waiting:
        message = waiting.pop()
        reached.add(str(message.get("message_id")))
        waiting += message["replies"]
    for name, (line, _) in messages.items():
        if name not in reached:
            rejects.add(file, line, "parent_id", "leads to no first message in this file")
    for line, root in roots:
        yield line, {"message_tree_id": root.get("message_tree_id"), "prompt": root}


def _tree_rankings(tree: Row) -> Iterator[Record]:
    root = column(tree, "prompt")
    if not isinstance(root, dict):
        raise BadRow("prompt", f"must be the tree's first message, found {shown(root)}")
    waiting: list[tuple[Row, list[Message]]] = [(root, [])]
    while waiting:
        message, above = waiting.pop()
        conversation = [*above, _turn(message)]
        replies = message.get("replies") or []
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
    if not all(type(rank) in (int, float) and rank % 1 == 0 for rank in ranks):
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
