"""The commands of `align jobs`. They ask about what `align submit` sent from a run directory."""

from pathlib import Path
from typing import Annotated

import typer

from align.pipeline.options import RunDir

jobs = typer.Typer(help="Runs on a cluster: how they go, what they print, stop, fetch.")


@jobs.command("list")
def list_all(run_dir: RunDir) -> None:
    """All that was submitted from a run directory, with its state."""
    from align.pipeline.submit.jobs import list_jobs

    for line in list_jobs(run_dir.absolute()):
        print(line)


@jobs.command()
def status(run_dir: RunDir) -> None:
    """The state of the latest: queued, running, done, stopped, failed or lost."""
    from align.pipeline.submit.jobs import states

    for stage, state in states(run_dir.absolute()).items():
        print(f"{stage}: {state}")


@jobs.command()
def logs(
    run_dir: RunDir,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """What the latest has printed."""
    from align.pipeline.submit.jobs import logs as printed

    for text in printed(run_dir.absolute(), follow=follow):
        print(text, end="", flush=True)


@jobs.command()
def stop(
    run_dir: RunDir,
    minutes: Annotated[
        float, typer.Option(min=0, help="For the step and the checkpoint, before it is killed.")
    ] = 10.0,
) -> None:
    """Let the latest end its step and save; submitted again, it goes on from there."""
    from align.pipeline.submit.jobs import stop as stop_jobs

    for stage, state in stop_jobs(run_dir.absolute(), minutes).items():
        print(f"{stage}: {state}")


@jobs.command()
def fetch(
    run_dir: RunDir,
    out: Annotated[
        Path | None, typer.Option(metavar="D", help="Where to; default: the run directory.")
    ] = None,
) -> None:
    """Bring report, summary and models back."""
    from align.pipeline.submit.jobs import fetch as fetch_results

    destination = (out or run_dir).absolute()
    fetch_results(run_dir.absolute(), destination)
    print(f"report and models are in {destination}")
