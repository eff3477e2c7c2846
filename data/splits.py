"""Which prompts train and which are held out.

By default a prompt's split is the hash of its cluster. Where near-duplicates are clustered, a new
prompt may connect old ones: `Assignments` freeze what was assigned, in a file that only grows.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from align.data.atomic import write_jsonl
from align.data.dedup import near_duplicates
from align.data.errors import DataError
from align.data.files import read_rows
from align.data.messages import folded, shown
from align.data.schemas import Preference

Split = Literal["train", "test"]
Assignment = Callable[[pa.Array, pa.Array], tuple[pa.Array, pa.Array]]
"""From prompt_id and cluster_id to the cluster_id that holds, and its split."""
SIDES = ("chosen", "rejected")
FROZEN = {"prompt_id", "text", "cluster_id", "split"}  # of a line of the file


def shared_answers(pairs: Iterable[Preference]) -> set[str]:
    """Texts that are answers on both sides of the split, but for case, spaces and Unicode form."""
    texts: dict[Split, set[str]] = {"train": set(), "test": set()}
    for pair in pairs:
        texts[pair["split"]] |= {folded(pair[side][-1]["content"]) for side in SIDES}
    return texts["train"] & texts["test"]


def split_of(cluster_id: str, held_out: float) -> Split:
    """Put about the share `held_out` of all clusters into `test`, by the id's hash alone.

    New rows never move old ones, near-duplicates share a cluster and so a split, and a larger
    share only adds clusters to `test`.
    """
    digest = hashlib.sha256(f"split {cluster_id}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < held_out * 2**64 else "train"


def by_hash(held_out: float) -> Assignment:
    """Clusters as they are, and the `split_of` each."""

    def assignment(_: pa.Array, clusters: pa.Array) -> tuple[pa.Array, pa.Array]:
        encoded = pc.dictionary_encode(clusters)
        splits = [split_of(name, held_out) for name in encoded.dictionary.to_pylist()]
        return clusters, pa.array(splits, pa.string()).take(encoded.indices)

    return assignment


def frozen(
    prompts: Mapping[str, tuple[str, str]], path: Path | None, held_out: float
) -> tuple[Assignment, tuple[str, ...]]:
    """Clusters of near-duplicates, and prompts that leak, as in `assign`.

    What the file says of prompts holds, and new ones are added to it.
    """
    assigned, leaks = assign(read_assignments(path) if path else {}, prompts, held_out)
    if path:
        write_assignments(path, assigned)
    ids, clusters, splits = (
        pa.array(names, pa.string())
        for names in (
            list(assigned),
            [one.cluster_id for one in assigned.values()],
            [one.split for one in assigned.values()],
        )
    )

    def assignment(prompt_ids: pa.Array, _: pa.Array) -> tuple[pa.Array, pa.Array]:
        places = pc.index_in(prompt_ids, ids)
        return clusters.take(places), splits.take(places)

    return assignment, leaks


@dataclass(frozen=True)
class Assigned:
    """The cluster that a prompt is in, for good, and the split of that cluster."""

    text: str
    cluster_id: str
    split: Split


def read_assignments(path: Path) -> dict[str, Assigned]:
    """What was assigned before, by prompt_id; nothing if there is no file yet.

    Raises: DataError if the file is not one that `write_assignments` wrote.
    """
    if not path.exists():
        return {}
    assigned: dict[str, Assigned] = {}
    splits: dict[str, str] = {}
    for line, row in read_rows(path):
        if row.keys() != FROZEN or not all(isinstance(value, str) for value in row.values()):
            problem = "is no line of frozen splits"
        elif row["split"] not in get_args(Split):
            problem = f"split must be one of {', '.join(get_args(Split))}"
        elif row["prompt_id"] in assigned:
            problem = f"prompt {shown(row['prompt_id'])} is there twice"
        elif splits.setdefault(row["cluster_id"], row["split"]) != row["split"]:
            problem = f"cluster {shown(row['cluster_id'])} is in two splits"
        else:
            assigned[row["prompt_id"]] = Assigned(row["text"], row["cluster_id"], row["split"])
            continue
        raise DataError(
            f"{path}:{line}: {problem}: keep another file under this name, and delete this one to "
            "assign splits anew"
        )
    return assigned


def write_assignments(path: Path, assigned: Mapping[str, Assigned]) -> None:
    """One line a prompt."""
    write_jsonl(path, ({"prompt_id": name} | vars(one) for name, one in assigned.items()))


def assign(
    old: Mapping[str, Assigned], prompts: Mapping[str, tuple[str, str]], held_out: float
) -> tuple[dict[str, Assigned], tuple[str, ...]]:
    """Old assignments as they are, those of new prompts (text and cluster_id, by id), and leaks.

    A new prompt joins the old prompts that came with its cluster_id, else the cluster of the first
    old one that it is near to, else that of the first new one. Old clusters that it connects stay
    apart; it leaks if they are in different splits.
    """
    home: dict[str, Assigned] = {}
    for name, one in old.items():
        if name in prompts:  # an old prompt may be in the cluster of another one
            home.setdefault(prompts[name][1], one)
    new = {name: prompts[name] for name in sorted(prompts.keys() - old.keys())}
    component = near_duplicates(
        [one.text for one in old.values()] + [text for text, _ in new.values()],
        [one.cluster_id for one in old.values()]
        + [home[own].cluster_id if own in home else own for _, own in new.values()],
    ).tolist()
    found: dict[int, Assigned] = {}
    splits: dict[int, set[Split]] = {}
    for place, one in zip(component, old.values(), strict=False):
        found.setdefault(place, one)
        splits.setdefault(place, set()).add(one.split)
    assigned = dict(old)
    leaks: list[str] = []
    for place, (name, (text, cluster)) in zip(component[len(old) :], new.items(), strict=True):
        mine = home.get(cluster) or found.setdefault(
            place, Assigned(text, cluster, split_of(cluster, held_out))
        )
        assigned[name] = Assigned(text, mine.cluster_id, mine.split)
        if len(splits.get(place, ())) > 1:
            leaks.append(name)
    return assigned, tuple(leaks)
