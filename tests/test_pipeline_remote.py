"""Copies of checkpoints elsewhere, on file systems that are not this disk."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from align.data.errors import UserError
from align.pipeline.remote import fetch_newest, prune, upload


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    place = "memory://copies" if request.param == "memory" else f"file://{tmp_path}/copies"
    yield place
    fsspec.filesystem("memory").store.clear()


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "policy-00000-of-00001.safetensors").write_bytes(b"weights %d" % step)
    (path / "MANIFEST.json").write_text(f'{{"step": {step}}}')
    return path


def test_the_newest_copy_comes_back_as_it_went(tmp_path: Path, url: str) -> None:
    for step in (9, 10):
        upload(checkpoint(tmp_path / "here", step), url, "sft")
    found = fetch_newest(tmp_path / "there", url, "sft")
    assert found == tmp_path / "there" / "step-00000010"
    assert {file.name: file.read_bytes() for file in found.iterdir()} == {
        "policy-00000-of-00001.safetensors": b"weights 10",
        "MANIFEST.json": b'{"step": 10}',
    }


def test_a_copy_without_its_manifest_is_none(tmp_path: Path, url: str) -> None:
    for step in (1, 2):
        upload(checkpoint(tmp_path / "here", step), url, "sft")
    system, root = fsspec.core.url_to_fs(url)
    system.rm_file(f"{root}/sft/step-00000002/MANIFEST.json")
    found = fetch_newest(tmp_path / "there", url, "sft")
    assert found is not None and found.name == "step-00000001"


def test_stages_do_not_see_each_other(tmp_path: Path, url: str) -> None:
    upload(checkpoint(tmp_path / "here", 1), url, "sft")
    assert fetch_newest(tmp_path / "there", url, "rm") is None


def test_copies_of_deleted_checkpoints_go(tmp_path: Path, url: str) -> None:
    for step in (1, 2, 3):
        upload(checkpoint(tmp_path / "here", step), url, "sft")
    prune({"step-00000002", "step-00000003"}, url, "sft")
    system, root = fsspec.core.url_to_fs(url)
    left = sorted(path.rsplit("/", 1)[1] for path in system.ls(f"{root}/sft", detail=False))
    assert left == ["step-00000002", "step-00000003"]


def test_a_place_that_nobody_knows_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.upload: nowhere://x") as caught:
        upload(checkpoint(tmp_path, 1), "nowhere://x", "sft")
    assert "\n" not in str(caught.value)


def test_a_place_that_says_no_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "copies").write_text("a file")
    with pytest.raises(UserError, match=r"train\.upload: file://") as caught:
        upload(checkpoint(tmp_path / "here", 1), f"file://{tmp_path}/copies", "sft")
    assert "\n" not in str(caught.value)
