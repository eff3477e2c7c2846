"""The house rules that no other tool checks: who imports whom, and what the wheel carries."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

FLOORS = ("data", "policy", "reward", "pipeline")  # a folder imports itself and those to its left
ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT) for floor in FLOORS for path in (ROOT / floor).rglob("*.py")
)
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").glob("*.py"))
LONGEST = 300  # lines; aim at 110, and at 250 look for the second room


def imported_names(path: Path) -> Iterator[str]:
    """Every module that `path` imports, also inside functions."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write `from align.{path.parts[0]}...`, not a dot"
            # `from align import policy` imports align.policy
            yield node.module if node.module and node.module != "align" else "align"
            if node.module == "align":
                yield from (f"align.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_folder_imports_only_itself_and_those_to_its_left(path: Path) -> None:
    allowed = FLOORS[: FLOORS.index(path.parts[0]) + 1]
    upward = [
        name
        for name in imported_names(path)
        if name.startswith("align.") and name.split(".")[1] not in allowed
    ]
    assert not upward, f"{path} may import {allowed}"


@pytest.mark.parametrize("path", MODULES + TESTS, ids=str)
def test_no_module_is_imported_by_its_bare_folder_name(path: Path) -> None:
    bare = [name for name in imported_names(path) if name.split(".")[0] in FLOORS]
    assert not bare, "from the root `import data.x` makes a second copy of every class in it"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=str)
def test_an_init_file_is_one_docstring(path: Path) -> None:
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr), "imports here slow `align --help`"


@pytest.mark.parametrize("path", MODULES + TESTS, ids=str)
def test_a_file_opens_with_a_docstring_and_is_one_room(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "say what this file is, first"
    if path.parts[0] != "tests":
        assert len(text.splitlines()) <= LONGEST


def test_the_package_list_is_the_folders() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {".".join(path.parent.parts) for path in MODULES} | {"configs"}
    assert set(project["tool"]["setuptools"]["packages"]) == {f"align.{name}" for name in folders}


@pytest.mark.parametrize("floor", FLOORS)
def test_each_top_folder_is_marked_as_typed(floor: str) -> None:
    assert (ROOT / floor / "py.typed").exists(), "PEP 561: `align` itself has no folder to mark"


def test_the_readme_has_a_line_for_every_file() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [str(path) for path in MODULES if path.stem != "__init__" and path.name not in readme]
    assert not missing
