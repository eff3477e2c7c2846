"""The name of a pair: a hash of its prompt, its two answers and the criterion, and of nothing else.

So it is the same whatever the order of the records, and whoever judged.
"""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

ESCAPED = r'["\\\x00-\x1f]'  # characters that JSON does not take as they are
HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


def pair_digests(prompts: pa.Array, ones: pa.Array, others: pa.Array, criteria: pa.Array) -> bytes:
    """32 bytes a pair: sha256 of the canonical JSON of [prompt, [low id, high id], criterion]."""
    one_is_low = pc.less(ones, others)
    low, high = pc.if_else(one_is_low, ones, others), pc.if_else(one_is_low, others, ones)
    parts = [_quoted(names) for names in (prompts, low, high, criteria)]
    keys = pc.binary_join_element_wise(
        "[", parts[0], ",[", parts[1], ",", parts[2], "],", parts[3], "]", ""
    )
    return b"".join(hashlib.sha256(key).digest() for key in keys.cast(pa.binary()).to_pylist())


def hexadecimal(digests: bytes) -> pa.Array:
    """Digests of 32 bytes each as text."""
    data: NDArray[np.uint8] = np.frombuffer(digests, dtype=np.uint8)
    text = np.stack([HEX[data >> 4], HEX[data & 15]], axis=1)
    offsets = np.arange(0, 2 * len(data) + 1, 64, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text.tobytes())]
    return pa.StringArray.from_buffers(len(data) // 32, *buffers[1:])


def pair_ids(prompts: pa.Array, ones: pa.Array, others: pa.Array, criteria: pa.Array) -> pa.Array:
    """The `pair_id` of every two answers, in either order."""
    return hexadecimal(pair_digests(prompts, ones, others, criteria))


def _quoted(names: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(names, ESCAPED)).as_py():
        return pa.array(
            [json.dumps(name, ensure_ascii=False) for name in names.to_pylist()], pa.string()
        )
    return pc.binary_join_element_wise('"', names, '"', "")
