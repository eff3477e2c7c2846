"""The `align` command. Heavy modules are imported inside the command that needs them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from align.data.errors import DISK_ERRORS, UserError
from align.data.messages import printable
from align.pipeline.data_cli import data
from align.pipeline.feedback_cli import feedback
from align.pipeline.jobs_cli import jobs
from align.pipeline.options import Config, Overrides, Resume, RunDir, RunDirectoryOption, Stages

if TYPE_CHECKING:
    from align.pipeline.config import RunConfig

INTERRUPTED = 130
"""Exit code that typer gives a command that Ctrl-C ended, as shells do."""

app = typer.Typer(
    help="From a base language model and raw human judgement to an aligned model.",
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of the commands below it, too
)
app.add_typer(data, name="data")
app.add_typer(feedback, name="feedback")
app.add_typer(jobs, name="jobs")
Stage = Literal["sft", "rm", "ppo"]


def main() -> None:
    """Exit codes: 0 done, 2 the user can fix it, 1 a bug, 75 stopped after a checkpoint, 130
    interrupted."""
    # Read when torch is imported. Threads that spin while they wait cost a busy machine half its
    # speed: ranks and rollout workers share the cores, and autograd has threads of its own.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Bars of the libraries below would break into ours.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        code = app(prog_name="align", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:  # a wrong option: its exit code is 2
        message = " ".join(error.format_message().split()).removesuffix(".")
        _complain(f"{message.replace('Value error, ', '')}; see `align --help`")
        code = error.exit_code
    except UserError as error:
        _complain(str(error))
        code = 2
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        # An error that names no file may be that of stdout: a line more tells.
        unprintable = _stdout_fails("" if error.filename else "\n")
        where = error.filename or ("stdout" if unprintable else "a file")
        _complain(f"{where}: {os.strerror(error.errno)}: mend it and try again")
        code = 2
    if code == INTERRUPTED:
        _complain("interrupted; nothing is half-written, and the same command may be given again")
    sys.exit(code)


def _stdout_fails(text: str) -> bool:
    """Whether printing this, and what is left, meets a full disk. Then it is dropped: Python would
    try once more at its end, and exit with 120."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _complain(problems: str) -> None:
    for problem in problems.split("\n"):
        print(f"align: {printable(problem)}", file=sys.stderr)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"align {version('align-rlhf')}")
        raise typer.Exit


@app.callback()
def align(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """From a base language model and raw human judgement to an aligned model."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command()
def run(
    config: Config,
    stage: Stages = "all",
    run_dir: RunDirectoryOption = None,
    resume: Resume = "auto",
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the resolved config, and stop.")
    ] = False,
) -> int:
    """Run one stage or all three. The same command again goes on where the last one stopped."""
    from align.pipeline.dry_run import describe
    from align.pipeline.inputs import check_engine, check_inputs

    settings, stages, directory = _run_of(config, overrides, stage, run_dir)
    point = _resume_point(resume, directory)
    check_inputs(settings, stages)
    check_engine(settings, stages)
    if dry_run:
        print(describe(settings, stages, directory), end="")
        return 0
    from align.pipeline.run import run_stages

    return run_stages(settings, stages, directory, point)


def _run_of(
    config: str, overrides: list[str] | None, stage: str, run_dir: Path | None
) -> tuple["RunConfig", tuple[str, ...], Path]:
    """What `run` and `submit` are about: the config, its stages, and the run directory."""
    from align.pipeline.config import STAGES
    from align.pipeline.loading import load_config

    settings = load_config(config, overrides or ())
    stages = STAGES if stage == "all" else (stage,)
    return settings, stages, (run_dir or Path("runs") / settings.name).absolute()


def _resume_point(resume: str, run_dir: Path) -> str:
    if resume in ("auto", "never"):
        return resume
    from align.pipeline.run_directory import RunDirectory, resume_point  # brings pyarrow

    return resume_point(resume, RunDirectory(run_dir))


@app.command()
def submit(
    target: Annotated[
        Literal["ray", "slurm", "kubernetes", "skypilot"], typer.Option(help="Where to.")
    ],
    config: Config,
    stage: Stages = "all",
    run_dir: RunDirectoryOption = None,
    resume: Resume = "auto",
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the job, print exactly what would be sent.")
    ] = False,
) -> None:
    """Make `align run` happen on a cluster, until it is done. `align jobs` tells how it goes."""
    from align.pipeline.submit.send import send

    settings, stages, directory = _run_of(config, overrides, stage, run_dir)
    send(settings, stages, directory, target, resume, dry_run=dry_run)


@app.command()
def plan(config: Config, overrides: Overrides = None) -> int:
    """Reckon the memory of a run: who needs how much, does it fit, and if not, what helps."""
    from align.pipeline.loading import load_config
    from align.pipeline.plan import make_plan
    from align.pipeline.plan_text import describe

    settings = load_config(config, overrides or ())
    made = make_plan(settings)
    print(describe(made), end="")
    return 0 if made.fits else 2


@app.command("eval")
def evaluate_stage(
    run_dir: RunDir,
    stage: Annotated[Stage, typer.Option(help="Whose model to evaluate.")],
    overrides: Overrides = None,
) -> None:
    """Evaluate the model that a stage left; for rm and ppo, summary.json gets the numbers.

    `--set evaluation.top_p=0.9` and the like change how answers are sampled.
    """
    directory = _existing_run(run_dir)
    from align.pipeline.evaluate import evaluate

    evaluate(directory, stage, overrides or ())


@app.command()
def report(run_dir: RunDir) -> None:
    """Write report.html from what the run has left so far."""
    directory = _existing_run(run_dir)
    from align.pipeline.report import write_report

    print(write_report(directory))


@app.command()
def checkpoints(run_dir: RunDir) -> None:
    """List the checkpoints of a run: step, size, age, and whether they are whole."""
    directory = _existing_run(run_dir)
    from align.pipeline.checkpoint_list import list_checkpoints

    list_checkpoints(directory)


@app.command("chat")
def chat_with_model(
    run_dir: RunDir,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 always takes the likeliest word.")
    ] = 0.7,
    top_k: Annotated[
        int, typer.Option(min=0, help="Sample among so many of the likeliest tokens; 0: all.")
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Sample among tokens that hold this much probability."),
    ] = 1.0,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="No answer is shorter.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends an answer; may be repeated.")
    ] = None,
) -> None:
    """Talk to the model of the last finished stage."""
    from align.pipeline.chat import Manner, chat

    chat(run_dir, Manner(temperature, top_k, top_p, min_new_tokens, tuple(stop or ())))


def _existing_run(run_dir: Path) -> Path:
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir}: no run here (no config.yaml); make one with `align run`")
    return run_dir.absolute()


@app.command()
def doctor(
    config: Annotated[
        str | None, typer.Option(metavar="F", help="Also check this config and what it names.")
    ] = None,
    run_dir: RunDirectoryOption = None,
    overrides: Overrides = None,
) -> int:
    """Check this machine and environment; says how to fix them."""
    if config is None and (run_dir is not None or overrides):
        raise UserError("--run-dir and --set are of a config: give --config too")
    from align.pipeline.doctor import examine

    return examine(config, overrides or (), run_dir)
