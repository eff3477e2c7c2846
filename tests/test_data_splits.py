"""Splits by cluster."""

from pathlib import Path

import pytest

from align.data.errors import DataError
from align.data.splits import read_assignments, split_of


def test_a_split_depends_on_the_cluster_alone() -> None:
    first = {f"cluster {i}": split_of(f"cluster {i}", 0.1) for i in range(100)}
    more = {f"cluster {i}": split_of(f"cluster {i}", 0.1) for i in reversed(range(10_000))}
    assert first.items() <= more.items()


def test_about_the_asked_share_is_held_out() -> None:
    held_out = sum(split_of(str(i), 0.1) == "test" for i in range(10_000))
    assert abs(held_out - 1000) < 4 * 30  # a binomial's standard deviation is 30


def test_a_larger_share_only_adds_clusters() -> None:
    for i in range(1000):
        assert split_of(str(i), 0.3) == "test" or split_of(str(i), 0.1) == "train"


def test_another_file_under_the_name_of_the_splits_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    path.write_text('{"prompt": "Hi"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"splits\.jsonl:1: is no line of frozen splits"):
        read_assignments(path)
