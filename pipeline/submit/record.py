"""What was sent where: every submission is kept in the run directory.

RUN/jobs/0001/   submission.json, config.yaml, and the script, manifest or runtime environment
RUN/jobs/stop    asks the job to stop after its step, for good
RUN/jobs/pause   asks it to stop after its step and be queued again
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.run_directory import RunDirectory, write_json
from align.pipeline.submit.job import Job


@dataclass(frozen=True)
class Submission:
    """One `align submit`."""

    target: str
    ids: dict[str, str]
    """Stage, or `all` -> the job's id at the target."""
    run_dir: str
    """Where the job writes, on the cluster."""
    digest: str
    """Of what was run; see Job.digest."""
    submitted_at: str
    align: str
    """The version that made it."""


def next_folder(run_dir: Path) -> Path:
    """Where the next submission is kept; it is not made yet."""
    jobs = RunDirectory(run_dir).jobs
    number = max((int(path.name) for path in jobs.glob("[0-9]*")), default=0) + 1
    return jobs / f"{number:04}"


def record(folder: Path, *, target: str, ids: dict[str, str], job: Job) -> None:
    """Write submission.json."""
    submission = Submission(
        target=target,
        ids=ids,
        run_dir=str(job.run_dir),
        digest=job.digest,
        submitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        align=version("align-rlhf"),
    )
    write_json(folder / "submission.json", asdict(submission))


def submissions(run_dir: Path) -> list[tuple[Path, Submission]]:
    """All that were sent from a run directory, the oldest first."""
    files = sorted(RunDirectory(run_dir).jobs.glob("*/submission.json"))
    return [
        (file.parent, Submission(**json.loads(file.read_text(encoding="utf-8")))) for file in files
    ]


def latest(run_dir: Path) -> tuple[Path, Submission]:
    """The last one, or a UserError."""
    found = submissions(run_dir)
    if not found:
        raise UserError(f"{run_dir}: no job was submitted from here; make one with `align submit`")
    return found[-1]
