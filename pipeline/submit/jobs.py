"""`align jobs`: what became of what was submitted, in the same words for every target.

queued    waits for room
running
done      the run is finished
stopped   by `align jobs stop`, after a checkpoint; submit it again to go on
failed    the log says why
lost      the cluster knows nothing of it any more
"""

import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from align.data.errors import UserError
from align.pipeline.submit.record import Submission, latest, submissions
from align.pipeline.submit.targets import LIVE, POLL_SECONDS, target_of


def list_jobs(run_dir: Path) -> Iterator[str]:
    """A line for every job that was submitted from here."""
    latest(run_dir)
    for folder, submission in submissions(run_dir):
        target = target_of(submission.target)
        for stage, job_id in submission.ids.items():
            state = target.state(folder, submission, stage)
            name = f"{folder.name}  {submission.target:<5}  {stage:<4}"
            yield f"{name}  {state:<8}  {submission.submitted_at}  {job_id}"


def states(run_dir: Path) -> dict[str, str]:
    """Stage (or `all`) -> the state of its job, of the latest submission."""
    folder, submission, target = _latest(run_dir)
    return {stage: target.state(folder, submission, stage) for stage in submission.ids}


def logs(run_dir: Path, *, follow: bool) -> Iterator[str]:
    """What the jobs of the latest submission have printed; with `follow` until they end."""
    folder, submission, target = _latest(run_dir)
    for stage in submission.ids:
        if follow:
            yield from target.follow(folder, submission, stage)
        else:
            yield target.log(folder, submission, stage)


def stop(run_dir: Path, minutes: float) -> dict[str, str]:
    """Let running jobs end their step and save, for so many minutes; then end them. The states."""
    folder, submission, target = _latest(run_dir)
    now = states(run_dir)
    if not any(state in LIVE for state in now.values()):
        raise UserError(f"{run_dir}: no job is live; the latest is {', '.join(now.values())}")
    # Those that wait first, or the end of one would let the next begin.
    for stage in reversed(now):
        if now[stage] == "queued":
            target.kill(folder, submission, stage)
    if "running" in now.values():
        target.request_stop(folder, submission)
        _wait(run_dir, minutes)
    for stage, state in states(run_dir).items():
        if state in LIVE:
            target.kill(folder, submission, stage)
    return states(run_dir)


def _wait(run_dir: Path, minutes: float) -> None:
    until = time.monotonic() + 60 * minutes
    while "running" in states(run_dir).values() and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def fetch(run_dir: Path, destination: Path) -> None:
    """Bring report and models of the latest submission into `destination`."""
    folder, submission, target = _latest(run_dir)
    target.fetch(folder, submission, destination)


def live_submission(run_dir: Path) -> tuple[Path, Submission] | None:
    """The latest submission, if one of its jobs is queued or runs."""
    if not submissions(run_dir):
        return None
    folder, submission, target = _latest(run_dir)
    now = [target.state(folder, submission, stage) for stage in submission.ids]
    return (folder, submission) if any(state in LIVE for state in now) else None


def _latest(run_dir: Path) -> tuple[Path, Submission, ModuleType]:
    folder, submission = latest(run_dir)
    return folder, submission, target_of(submission.target)
