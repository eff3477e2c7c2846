"""The `align` command as a person runs it: in a process of its own, with its exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from align.data import core_yaml
from align.pipeline import cli
from align.pipeline.loading import load_config

CONFIG = "name: some\ndata:\n  prompts:\n    - {format: demo, rows: 3}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def align(*arguments: str, cwd: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run `align`, with a line of Python after it if `code` is given."""
    program = (
        f"import sys\nfrom align.pipeline.cli import main\ntry: main()\nfinally:\n {code or 0}"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def complaint(*arguments: str, cwd: Path) -> str:
    """The one line on standard error of a command that a person can fix."""
    done = align(*arguments, cwd=cwd)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("align: ") and done.stderr.count("\n") == 1
    return done.stderr.removeprefix("align: ").rstrip("\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["data", "--help"],
        ["data", "inspect", "--help"],
        ["feedback", "--help"],
        ["feedback", "judge", "--help"],
        ["submit", "--help"],
        ["jobs", "logs", "--help"],
        ["run", "--config", "some.yaml", "--stage", "ppo", "--dry-run"],
        ["plan", "--config", "some.yaml"],
    ],
    ids=" ".join,
)
def test_an_answer_that_should_be_instant_imports_nothing_heavy(
    config: Path, arguments: list[str]
) -> None:
    heavy = "{'torch', 'transformers', 'ray', 'deepspeed', 'trl', 'datasets', 'pyarrow', 'numpy'}"
    done = align(*arguments, cwd=config.parent, code=f"print('heavy:', {heavy} & {{*sys.modules}})")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("heavy: set()\n")


def test_help_alone_does_not_load_the_config_models(tmp_path: Path) -> None:
    done = align("--help", cwd=tmp_path, code="print('align.pipeline.config' in sys.modules)")
    assert done.stdout.endswith("False\n")


def test_help_names_the_commands_that_work_and_no_other(tmp_path: Path) -> None:
    done = align("--help", cwd=tmp_path)
    commands = done.stdout.split("Commands:\n")[1].splitlines()
    names = {line.split()[0] for line in commands}
    about_runs = {"run", "plan", "eval", "checkpoints", "report", "chat"}
    assert names == about_runs | {"submit", "jobs", "doctor", "data", "feedback"}


@pytest.mark.parametrize(
    "command", ["", "run", "plan", "feedback", "feedback judge", "jobs", "jobs logs"]
)
def test_h_is_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-h", "--help"):
        cli.app([*command.split(), option], prog_name="align", standalone_mode=False)
    first, *rest = capsys.readouterr().out.split("Usage: align")[1:]
    assert [first] == rest and "-h, --help" in first


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "align", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("align 0.")


def test_a_dry_run_prints_the_plan_and_a_config_that_loads(config: Path) -> None:
    done = align(
        *["run", "--config", "some.yaml", "--stage", "ppo", "--dry-run", "--set", "ppo.steps=7"],
        cwd=config.parent,
    )
    plan = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert [line.split()[1] for line in plan] == ["stages", "run", "ppo", "micro-batch"]
    assert str(config.parent / "runs" / "some") in plan[1]
    assert "7 steps of 64 answers (448 in all)" in plan[2]
    resolved = config.parent / "resolved.yaml"
    resolved.write_text(done.stdout, encoding="utf-8")
    assert load_config(resolved) == load_config(config, ["ppo.steps=7"])
    assert not (config.parent / "runs").exists()


def test_the_run_directory_is_relative_to_the_working_directory(config: Path) -> None:
    (config.parent / "here").mkdir()
    done = align(
        *["run", "--config", "../some.yaml", "--stage", "ppo", "--dry-run", "--run-dir", "mine"],
        cwd=config.parent / "here",
    )
    assert f"{config.parent}/here/mine\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("run", "Missing option '--config'; see `align --help`"),
        ("run --config some.yaml --nonsense", "No such option: --nonsense; see `align --help`"),
        ("nonsense", "No such command 'nonsense'; see `align --help`"),
        (
            "run --config some.yaml --stage dpo",
            "Invalid value for '--stage': 'dpo' is not one of 'sft', 'rm', 'ppo', 'all'; "
            "see `align --help`",
        ),
        ("eval .", "Missing option '--stage'. Choose from: sft, rm, ppo; see `align --help`"),
        (
            "run --config some.yaml --stage ppo --set train.rank=2",
            "--set train.rank=2: train.rank: unknown key; did you mean ranks?",
        ),
        (
            "run --config some.yaml --stage rm",
            "data.feedback: is empty, and rm learns from it; name a source",
        ),
        (
            "run --config some.yaml --stage ppo --resume runs/some/checkpoint",
            "--resume runs/some/checkpoint: no such checkpoint; give auto, never or its folder",
        ),
        ("report .", ".: no run here (no config.yaml); make one with `align run`"),
        ("chat nowhere", "nowhere: no such directory; give a run directory or a model's folder"),
        (
            "jobs logs .",
            "{folder}: no job was submitted from here; make one with `align submit`",
        ),
        (
            "submit --target slurm --config some.yaml --stage ppo",
            "cluster.shared: is not given; name a folder that all machines of the cluster see: the "
            "run directory goes there",
        ),
        ("eval --stage rm .", ".: no run here (no config.yaml); make one with `align run`"),
    ],
)
def test_what_a_person_can_fix_is_one_line_and_exit_code_2(
    config: Path, arguments: str, text: str
) -> None:
    assert complaint(*arguments.split(), cwd=config.parent) == text.format(folder=config.parent)


def test_each_problem_of_a_config_has_its_own_line(config: Path) -> None:
    done = align(
        *["run", "--config", "some.yaml", "--set", "a=1", "--set", "train.ranks=0"],
        cwd=config.parent,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "align: --set train.ranks=0: train.ranks: must be greater than 0, not 0",
        "align: --set a=1: a: unknown key; known are name, seed, model, data, mixture, train, sft, "
        "feedback, rm, reward, rollout, evaluation, ppo, cluster",
    ]


def test_a_bug_shows_its_traceback_and_exits_with_1(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config.parent / "sitecustomize.py").write_text(
        "from align.pipeline import inputs\n"
        "def broken(*_): raise RuntimeError('ours')\n"
        "inputs.check_inputs = broken\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(config.parent), prepend=os.pathsep)
    done = align("run", "--config", "some.yaml", "--dry-run", cwd=config.parent)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "RuntimeError: ours" in done.stderr


def test_a_file_that_cannot_grow_is_one_line_that_names_it(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config.parent / "sitecustomize.py").write_text(
        "import resource\n"
        "from pathlib import Path\n"
        "from align.data.atomic import write_jsonl\n"
        "from align.pipeline import inputs\n"
        "def long(*_): write_jsonl(Path('long.jsonl'), [{'text': 'x' * 99_999}])\n"
        "inputs.check_inputs = long\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(config.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    said = complaint("run", "--config", "some.yaml", "--dry-run", cwd=config.parent)
    assert said == "long.jsonl: File too large: mend it and try again"
    assert not list(config.parent.glob("*long.jsonl*"))


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["--help", "plan --config tiny"])
def test_a_full_disk_under_stdout_is_one_line(
    config: Path, arguments: str, unbuffered: str
) -> None:
    program = "from align.pipeline.cli import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments.split()],
            cwd=config.parent,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "align: stdout: No space left on device: mend it and try again\n"


def test_ctrl_c_is_one_line_and_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("align.pipeline.inputs.check_inputs", interrupt)
    monkeypatch.setattr(sys, "argv", ["align", "run", "--config", str(config), "--dry-run"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("align: interrupted; ")
    assert printed.err.count("\n") == 1


def test_the_plan_states_the_sizes_of_every_stage(config: Path) -> None:
    more = [
        "data.instructions=[{format: demo, rows: 4}]",
        "data.feedback=[{format: simulated, rows: 2}]",
    ]
    done = align(
        *["run", "--config", "some.yaml", "--dry-run", "--set", more[0], "--set", more[1]],
        *["--set", "train.ranks=2", "--set", "sft.packing=false"],
        cwd=config.parent,
    )
    assert "32 rows per optimiser step, 16 on each rank\n" in done.stdout
    assert "32 preference groups per optimiser step\n" in done.stdout
    assert "4 units of work for 2 workers, then 4 optimiser steps of 64\n" in done.stdout
    assert "4096 tokens: 8 texts of the full 512 tokens at once" in done.stdout
    tree, _ = core_yaml.parse(done.stdout)
    assert tree["train"]["ranks"] == 2
