"""Where a model's files lie, and whether they are still the same."""

from pathlib import Path

import numpy as np

from align.policy.places import identity_of


def test_a_folder_is_known_by_what_its_files_hold(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "same", "other", "renamed")]
    weights = np.random.default_rng(0).bytes(5_000_000)
    changed = np.random.default_rng(1).bytes(5_000_000)
    for folder, content in zip(folders, (weights, weights, changed, weights), strict=True):
        folder.mkdir()
        name = "other.safetensors" if folder.name == "renamed" else "model.safetensors"
        (folder / name).write_bytes(content)
    one, same, other, renamed = map(identity_of, folders)
    assert one == same and len({one, other, renamed}) == 3


def test_a_file_that_was_cut_is_another(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"row\n" * 10)
    before = identity_of(file)
    file.write_bytes(b"row\n" * 9)
    assert identity_of(file) != before


def test_a_hub_id_is_known_by_its_name() -> None:
    assert identity_of("somebody/some-model") == "somebody/some-model"
