"""Random choices that depend on names alone: not on order, shards or what else is there."""

import hashlib


def unit(*key: object) -> float:
    """A number in [0, 1) that looks random and is the same for the same key."""
    text = "\x1f".join(map(str, key))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # as many bits as a float holds


def pick(count: int, *key: object) -> int:
    """One of 0 to count - 1, each as likely."""
    return int(unit(*key) * count)
