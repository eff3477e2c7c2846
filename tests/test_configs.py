"""Every config that ships loads, round-trips and names inputs that are in place."""

import json
import re
from pathlib import Path

import pytest

from align.data.errors import UserError
from align.data.schemas import FEEDBACK, LEAST_COMPLETIONS, completed
from align.data.validate import validate_record
from align.pipeline.config import STAGES
from align.pipeline.inputs import check_inputs
from align.pipeline.loading import dump_config, load_config
from align.reward.feedback.kinds import OPINIONS

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))


def test_the_default_and_the_base_of_the_tests_ship() -> None:
    assert {"demo", "tiny"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_loads_and_its_dump_loads_as_the_same(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(copy) == config


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_the_embedded_configs_need_nothing_that_does_not_ship(name: str) -> None:
    check_inputs(load_config(FOLDER / f"{name}.yaml"), STAGES)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_data_of_every_shipped_config_is_where_it_says(path: Path, shared: Path) -> None:
    config = load_config(path)
    try:
        check_inputs(config, STAGES)
    except UserError as error:
        # A model that a package brings lies where the README says to put it, not in ../shared.
        assert all(problem.startswith("model.") for problem in str(error).splitlines())


@pytest.mark.parametrize("kind", OPINIONS)
def test_the_feedback_that_the_readme_shows_is_valid(kind: str, root: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    record = json.loads(readme.partition("```json")[2].partition("```")[0])
    fields = re.search(rf"^\| `{kind}` \|.*?`(\{{.*?\}})`:", readme, re.MULTILINE)
    assert fields
    if kind != "ranking":
        del record["ranks"]
        count = LEAST_COMPLETIONS[kind]
        record |= {name: record[name][:count] for name in ("completions", "completion_ids")}
    record |= json.loads(fields[1]) | {"kind": kind}
    assert validate_record(completed(record, FEEDBACK[kind])) == []
