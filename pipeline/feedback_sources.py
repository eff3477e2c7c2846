"""Which feedback a command of `align feedback` is about, and under which settings."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

import pyarrow as pa

from align.data.by_prompt import Slice, by_prompt
from align.data.config import FeedbackFormat, FeedbackSource
from align.data.errors import UserError
from align.data.feedback import feedback_batches
from align.data.invariants import consistent
from align.data.rejects import Rejects
from align.data.schemas import Record
from align.pipeline.config import RunConfig
from align.pipeline.loading import default_config, load_config
from align.pipeline.progress import note, tracked
from align.reward.convert import set_aside

PLACES = {"file", "line", "arrival"}  # of a record, as it is read
FORMATS = tuple(name for name in get_args(FeedbackFormat) if name != "simulated")


@dataclass(frozen=True)
class Asked:
    """The sources, and a config of which the sections `data` and `feedback` (and `model`) count."""

    sources: tuple[FeedbackSource, ...]
    config: RunConfig

    @property
    def name(self) -> str:
        """A title: the names of the files."""
        names = [source.path.name for source in self.sources if source.path]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def asked(
    files: Sequence[Path], format: str, config: str | None, overrides: Sequence[str]
) -> Asked:
    """Files of one format, or without files the sources of a config; with its settings if there is
    one. Raises: UserError for what is missing or unknown.
    """
    if format not in FORMATS:
        near = get_close_matches(format, FORMATS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(FORMATS)}"
        raise UserError(f"--format {format}: unknown format; {hint}")
    settings = load_config(config, overrides) if config else default_config("feedback", overrides)
    sources = [
        FeedbackSource.model_validate({"format": format, "path": Path(os.path.abspath(path))})
        for path in files
    ]
    if not files:
        if config is None:
            raise UserError("nothing to read: give FILE..., or --config F with data.feedback")
        sources = [source for source in settings.data.feedback if source.path is not None]
        if len(sources) < len(settings.data.feedback):
            note("simulated feedback is made in a run and left out here")
        if not sources:
            raise UserError(f"{config}: data.feedback names no file; give FILE..., or a source")
    for source in sources:
        if source.path is not None and not source.path.exists():
            raise UserError(f"{source.path}: there is no such file or folder")
    _check_once(sources)
    return Asked(tuple(sources), settings)


def _check_once(sources: Iterable[FeedbackSource]) -> None:
    """Raises: UserError for a source that is given twice, be it by two names of one file."""
    seen: dict[tuple[int, int, str], Path] = {}
    for source in sources:
        assert source.path is not None
        file = source.path.stat()
        earlier = seen.setdefault(
            (file.st_dev, file.st_ino, source.model_dump_json(exclude={"path"})), source.path
        )
        if earlier is not source.path:
            name = "" if earlier == source.path else f", first as {earlier}"
            raise UserError(f"{source.path}: the file is given twice{name}; give it once")


def read(wanted: Asked, folder: Path | None, rejected: Path | None) -> list[Record]:
    """All good records, in memory; bad rows are counted, and kept in `rejected`.

    Temporary files lie in `folder`. Raises: DataError if too many rows are bad, or a source has no
    good one.
    """
    rejects = Rejects(rejected, wanted.config.data.max_rejected)
    batches = feedback_batches(wanted.sources, rejects)
    slices = consistent_slices(batches, rejects, folder)
    rows = [row for part in slices for table in part.values() for row in table.to_pylist()]
    rejects.finish()
    note_bad_rows(rejects)
    rows.sort(key=lambda row: row["arrival"])
    return [{name: row[name] for name in row.keys() - PLACES} for row in rows]


def consistent_slices(
    batches: Iterable[pa.RecordBatch], rejects: Rejects, folder: Path | None
) -> Iterator[Slice]:
    """Good records by prompt, with a bar while they come in; contradicting ones are set aside."""
    with by_prompt(tracked("records", batches, len), folder) as slices:
        for part in slices:
            tables, problems = consistent(part, slices.repeated)
            for problem in problems:
                set_aside(part, problem, rejects)
            yield tables


def note_bad_rows(rejects: Rejects) -> None:
    """Say how many rows were left out, if any."""
    if rejects.rows:
        where = f": see {rejects.path}" if rejects.path else ", which --out DIR keeps"
        note(f"{rejects.rows:,} of {rejects.seen:,} rows are bad and left out{where}")


def rejected_of(out: Path) -> Path:
    """Where the bad rows behind a file go: beside it, under its name."""
    return out.with_name(f"{out.stem}.rejected.jsonl")


def keep_apart(wanted: Asked, *outputs: Path) -> None:
    """Raises: UserError if what is to be written would replace what is to be read."""
    for source in wanted.sources:
        for file in outputs:
            if source.path is not None and file.exists() and file.samefile(source.path):
                raise UserError(f"--out: {file} is a file to read; name another place to write to")


def folder_apart(path: Path, wanted: Asked) -> Path:
    """A usable folder whose list of bad rows is not one of the files to read."""
    keep_apart(wanted, path / "rejected.jsonl")
    return usable_folder(path)


def usable_folder(path: Path) -> Path:
    """The folder, made if need be. Raises: UserError if nothing can be written to it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        in_the_way = [one for one in (path, *path.parents) if one.exists() and not one.is_dir()]
        reason = f"{in_the_way[0]} is no folder" if in_the_way else error.strerror
        raise UserError(
            f"--out {path}: cannot be written to ({reason}); name another place"
        ) from None
