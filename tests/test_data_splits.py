"""Splits by cluster."""

from pathlib import Path

import pytest

from align.data.atomic import write_jsonl
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


GOOD = {"prompt_id": "p", "text": "Hi", "cluster_id": "c", "split": "test"}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"prompt": "Hi"}], "1: is no line of frozen splits"),
        ([GOOD, GOOD | {"version": 1}], "2: is no line of frozen splits"),
        ([{"prompt_id": "p", "split": "test"}], "1: is no line of frozen splits"),
        ([GOOD | {"text": 3}], "1: is no line of frozen splits"),
        ([GOOD | {"cluster_id": None}], "1: is no line of frozen splits"),
        ([GOOD | {"prompt_id": ["p"]}], "1: is no line of frozen splits"),
        ([GOOD | {"split": "validation"}], "1: split must be one of train, test"),
        ([GOOD, GOOD], '2: prompt "p" is there twice'),
        ([GOOD, GOOD | {"prompt_id": "q", "split": "train"}], '2: cluster "c" is in two splits'),
    ],
)
def test_another_file_under_the_name_of_the_splits_is_one_line(
    tmp_path: Path, rows: list[dict[str, object]], problem: str
) -> None:
    write_jsonl(tmp_path / "splits.jsonl", rows)
    with pytest.raises(DataError) as error:
        read_assignments(tmp_path / "splits.jsonl")
    assert f"splits.jsonl:{problem}: keep another file under this name" in str(error.value)


@pytest.mark.parametrize("content", ["", "# prompt_id,split\n"])
def test_an_empty_or_broken_file_of_splits_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"splits\.jsonl:1: "):
        read_assignments(tmp_path / "splits.jsonl")
