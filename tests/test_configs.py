"""Every config that ships loads, round-trips and names inputs that are in place."""

import json
import re
from pathlib import Path

import pytest

from align.data.errors import UserError
from align.data.schemas import FEEDBACK, LEAST_COMPLETIONS, completed
from align.data.validate import validate_record
from align.pipeline import dry_run
from align.pipeline.config import STAGES
from align.pipeline.inputs import check_inputs
from align.pipeline.loading import dump_config, load_config
from align.pipeline.plan import make_plan
from align.pipeline.plan_text import describe
from align.pipeline.submit.send import send
from align.pipeline.submit.targets import MODULES
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


PRESETS = {"lora-1gpu": 1, "full-8gpu": 8, "zero3-7b": 16, "zero3-70b": 64}
"""For clusters -> how many GPUs."""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_the_gpus_that_it_asks_for_and_leaves_none_idle(name: str) -> None:
    config = load_config(FOLDER / f"{name}.yaml")
    made = make_plan(config)
    assert made.fits, describe(made)
    assert made.placed.gpus == PRESETS[name]
    assert made.placed.gpus == config.cluster.nodes * config.cluster.gpus_per_node


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("target", MODULES)
def test_a_preset_dry_runs_here_and_for_every_target(
    name: str,
    target: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["kubernetes.image=align:1", "kubernetes.volume_claim=runs"]
    options += ["skypilot.accelerator=H100", "skypilot.bucket=s3://runs", f"shared={tmp_path}"]
    config = load_config(name, [f"cluster.{option}" for option in options])
    check_inputs(config, STAGES)
    assert "# stages" in dry_run.describe(config, STAGES, tmp_path / "run")
    # A Slurm that is here has no such machines, so the shell alone checks.
    (tmp_path / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(tmp_path))
    send(config, STAGES, tmp_path / "run", target, "auto", dry_run=True)
    assert str(tmp_path / "run" / "jobs" / "0001") in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_data_of_every_shipped_config_is_where_it_says(path: Path, shared: Path) -> None:
    config = load_config(path)
    try:
        check_inputs(config, STAGES if config.data.feedback else ("sft",))
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
