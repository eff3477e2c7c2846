"""The rows of an instruction source: of a file, a folder, or a data set on a hub."""

import json
from collections.abc import Iterator
from pathlib import Path

from align.data.errors import DataError, UserError
from align.data.files import Row, read_rows, readable
from align.data.instruction_config import InstructionSource
from align.data.rejects import Rejects

Located = Iterator[tuple[Path, int, Row]]
CHUNK = 1 << 20  # characters of a text file read at once


def source_rows(source: InstructionSource, rejects: Rejects) -> Located:
    """(file, line, row) of each readable row. Raises: DataError, UserError."""
    if source.hub is not None:
        yield from _hub_rows(source.hub, source.split, rejects)
        return
    assert source.path is not None  # the config demands it
    for file in _files(source.path, source.split):
        if file.suffix == ".txt":
            for line, text in _documents(file, source.separator):
                rejects.seen += 1
                yield file, line, {"text": text}
        else:
            for line, row in read_rows(file, rejects):
                yield file, line, row


def _files(path: Path, split: str) -> list[Path]:
    """The file itself, or the Arrow files of a folder that `datasets` saved."""
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json")["splits"]
        if split not in splits:
            raise DataError(f"{path}:1: has no split {split!r}, only {', '.join(splits)}")
        path = path / split
    if not (path / "state.json").is_file():
        raise DataError(f"{path}:1: this folder was not saved by `datasets`: give a file in it")
    return [path / file["filename"] for file in _json(path / "state.json")["_data_files"]]


def _json(path: Path) -> Row:
    with readable(path):
        row: Row = json.loads(path.read_bytes())
    return row


def _documents(path: Path, separator: str) -> Iterator[tuple[int, str]]:
    """The texts between separators, each with the line that it begins on; blank ones are none."""
    with readable(path), path.open(encoding="utf-8", errors="strict", newline="") as file:
        line, rest = 1, ""
        try:
            while chunk := file.read(CHUNK):
                *whole, rest = (rest + chunk).split(separator)
                for text in whole:
                    if text.strip():
                        yield line, text.strip()
                    line += text.count("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{line}: not UTF-8: {error.reason}") from None
        if rest.strip():
            yield line, rest.strip()


def _hub_rows(hub: str, split: str, rejects: Rejects) -> Located:
    import datasets  # seconds to import, and few sources need it

    try:
        rows = datasets.load_dataset(hub, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"hub: {hub}: cannot be loaded ({reason}); check the id and split"
        ) from None
    for number, row in enumerate(rows, start=1):
        rejects.seen += 1
        yield Path(hub), number, row
