"""Slurm: the commands that queue a job and ask about it. Its script: submit/slurm_script.py."""

import codecs
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.run_directory import RunDirectory
from align.pipeline.submit.job import Job
from align.pipeline.submit.needs import check_run_dir, local_needs, refuse, with_address
from align.pipeline.submit.record import Submission
from align.pipeline.submit.results import copy_results
from align.pipeline.submit.slurm_script import exit_file, log_file, script
from align.pipeline.submit.targets import LIVE, POLL_SECONDS

STATES = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_HOLD": "queued",
    "RUNNING": "running",
    "COMPLETING": "running",
    "RESIZING": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "COMPLETED": "done",
    "CANCELLED": "stopped",
}
"""Slurm's word -> ours; any other is a failure."""

NOBODY_ANSWERS = ("configuration source", "Unable to contact slurm controller")

NO_SUCH_MACHINES = (
    "node configuration is not available",
    "Node count specification invalid",
    "generic resource",  # GPUs, where no node has one
)


def place(config: RunConfig, stages: tuple[str, ...], run_dir: Path) -> Job:
    """The run as the nodes will see it: they share this machine's disks, or the run is refused."""
    check_run_dir(config, run_dir)
    refuse(local_needs(config, stages), config, "the nodes of the job may not see it")
    # `ray symmetric-run` has started Ray on several machines; on one the run starts its own.
    address = "auto" if config.cluster.nodes > 1 else "local"
    return Job(with_address(config, address), stages, run_dir)


def texts(job: Job, folder: Path) -> dict[str, str]:
    """File -> the script of a job, in the order in which they run."""
    stages = job.stages if job.config.cluster.slurm.chain else (job.stage,)
    return {f"{stage}.sh": script(job, stage, folder) for stage in stages}


def check(scripts: dict[str, str]) -> None:
    """Ask Slurm, or where there is none the shell, whether the scripts would do. UserError."""
    for text in scripts.values():
        if shutil.which("sbatch"):
            _slurm("sbatch", "--test-only", text=text)
        else:
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def submit(job: Job, folder: Path, scripts: dict[str, str]) -> dict[str, str]:
    """Queue the scripts, each after the one before; stage -> job id."""
    ids: dict[str, str] = {}
    for name in scripts:
        # One that waits for a failed job would wait for ever.
        after = [f"--dependency=afterok:{one}" for one in list(ids.values())[-1:]]
        kill = ["--kill-on-invalid-dep=yes"] if after else []
        try:
            answer = _slurm("sbatch", "--parsable", *after, *kill, str(folder / name))
        except UserError:
            for one in ids.values():  # or half a chain would run, of which nobody knows
                _slurm("scancel", one)
            raise
        ids[name.removesuffix(".sh")] = answer.partition(";")[0]
    return ids


def state(folder: Path, submission: Submission, stage: str) -> str:
    """One of the words of pipeline/submit/jobs.py."""
    ended = exit_file(folder, stage)
    if ended.exists():
        return {"0": "done", "75": "stopped"}.get(ended.read_text().strip(), "failed")
    asked = _asked("scontrol", "show", "job", submission.ids[stage], "--oneliner")
    if asked.returncode and "Invalid job id" not in asked.stderr:
        raise UserError(_explained(asked.stderr))
    fields = dict(word.partition("=")[::2] for word in asked.stdout.split())
    return STATES.get(fields["JobState"], "failed") if fields else "lost"


def log(folder: Path, submission: Submission, stage: str) -> str:
    """What the job has printed so far."""
    file = log_file(folder, stage)
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def follow(folder: Path, submission: Submission, stage: str) -> Iterator[str]:
    """What the job prints, piece by piece, until it ends."""
    file, decoder = log_file(folder, stage), codecs.getincrementaldecoder("utf-8")("replace")
    live, position = True, 0
    while live:
        # The state first: what a job prints as it ends is then still read.
        live = state(folder, submission, stage) in LIVE
        if file.exists():
            with file.open("rb") as opened:
                opened.seek(position)
                yield decoder.decode(opened.read())
                position = opened.tell()
        if live:
            time.sleep(POLL_SECONDS)


def request_stop(folder: Path, submission: Submission) -> None:
    """Ask the run to end its step, save, and not to be queued again."""
    RunDirectory(Path(submission.run_dir)).stop_job.touch()


def kill(folder: Path, submission: Submission, stage: str) -> None:
    """End a job at once, or take it from the queue."""
    _slurm("scancel", submission.ids[stage])


def fetch(folder: Path, submission: Submission, destination: Path) -> None:
    """Copy the results; the run directory is on a disk that this machine sees."""
    copy_results(Path(submission.run_dir), destination)


def _slurm(*command: str, text: str | None = None) -> str:
    """What a command of Slurm prints. Raises UserError."""
    done = _asked(*command, text=text)
    if done.returncode:
        raise UserError(_explained(done.stderr))
    return done.stdout.strip()


def _asked(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            f"no `{command[0]}` here: run this where jobs are submitted, on a login node"
        ) from None


def _explained(complaint: str) -> str:
    """What Slurm says, in one line that names our key where there is one."""
    if "invalid partition specified: " in complaint:
        wrong = complaint.partition("invalid partition specified: ")[2].split()[0]
        there = ", ".join(_slurm("sinfo", "--noheader", "--format=%R").split())
        return f"cluster.slurm.partition: Slurm has no {wrong}; it has {there}"
    if any(words in complaint for words in NOBODY_ANSWERS):
        return (
            "Slurm's controller does not answer: give the command on a login node, or name the "
            f"configuration of its cluster in SLURM_CONF ({' '.join(complaint.split())[:160]})"
        )
    if any(words in complaint for words in NO_SUCH_MACHINES):
        return (
            "Slurm has no such machines: lower cluster.nodes, cluster.gpus_per_node or "
            "cluster.slurm.cpus_per_node, or name another cluster.slurm.partition"
        )
    return f"Slurm: {' '.join(complaint.split()) or 'no reason given'}"
