"""Which prompts train and which are held out."""

import hashlib
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

Split = Literal["train", "test"]


def split_of(cluster_id: str, held_out: float) -> Split:
    """Put about the share `held_out` of all clusters into `test`, by the id's hash alone.

    New rows never move old ones, near-duplicates share a cluster and so a split, and a larger
    share only adds clusters to `test`.
    """
    digest = hashlib.sha256(f"split {cluster_id}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < held_out * 2**64 else "train"


def splits_by_hash(cluster_ids: pa.Array, held_out: float) -> pa.Array:
    """`split_of` each cluster."""
    encoded = pc.dictionary_encode(cluster_ids)
    splits = [split_of(name, held_out) for name in encoded.dictionary.to_pylist()]
    return pa.array(splits, pa.string()).take(encoded.indices)
