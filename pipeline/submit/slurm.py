"""Slurm: a batch script that runs until the work is done, and the commands that ask about it.

Slurm starts a job again by itself when it is preempted or a node fails (`--requeue`), and not when
its time is up: the script asks for a signal before that, lets the run save, and queues itself again
on exit code 75. On several machines `ray symmetric-run` starts Ray on each, waits until all are
there, and runs the command on the first.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.run_directory import RunDirectory
from align.pipeline.submit.job import COMMAND, Job, run_arguments, shell
from align.pipeline.submit.needs import check_run_dir, local_needs, refuse, with_address
from align.pipeline.submit.record import Submission
from align.pipeline.submit.results import copy_results

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

NO_SUCH_MACHINES = (
    "node configuration is not available",
    "Node count specification invalid",
    "generic resource",  # GPUs, where no node has one
)

SCRIPT = """#!/bin/bash
{options}
# Made by `align submit`; {submission} has what was sent with it.

run_dir={run_dir}
jobs="$run_dir/jobs"
ended={ended}
ending=
rm -f "$jobs/pause" "$ended"
# Near the time limit and at a preemption the run ends its step and saves.
trap 'touch "$jobs/pause"' USR1
trap 'touch "$jobs/pause"; ending=yes' TERM
{setup}
{command} &
run=$!
# A signal ends `wait`, and the run goes on.
while kill -0 "$run" 2> /dev/null; do wait "$run"; done
wait "$run"
code=$?
rm -f "$jobs/pause"
if [ -z "$ending" ]; then
    if [ "$code" -eq 75 ] && [ ! -e "$jobs/stop" ]; then
        scontrol requeue "$SLURM_JOB_ID"
        exit 75
    fi
    rm -f "$jobs/stop"
    echo "$code" > "$ended"
fi
exit "$code"  # a job that Slurm itself ends is queued again, or cancelled
"""

SEVERAL = """export PATH={folder}:"$PATH"  # where symmetric-run looks for ray
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
# The token that guards Ray is made here once, and stays in the home directory that nodes share.
# Without the mode a node does not show it while it waits for the head.
export RAY_AUTH_MODE=token
ray get-auth-token --generate > /dev/null
srun ray symmetric-run --address "$head:{port}" --min-nodes {nodes} -- {command}"""


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
    return {f"{stage}.sh": _script(job, stage, folder) for stage in stages}


def _script(job: Job, stage: str, folder: Path) -> str:
    setup = "\n".join(job.config.cluster.slurm.setup)
    return SCRIPT.format(
        options="\n".join(f"#SBATCH --{option}" for option in _options(job, stage, folder)),
        submission=folder / "submission.json",
        run_dir=shell([str(job.run_dir)]),
        ended=shell([str(_ended(folder, stage))]),
        setup=f"\n{setup}\n" if setup else "",
        command=_command(job, stage, folder),
    )


def _options(job: Job, stage: str, folder: Path) -> Iterator[str]:
    cluster, slurm = job.config.cluster, job.config.cluster.slurm
    yield f"job-name={job.config.name}-{stage}"
    named = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos}
    for name, value in {**named, "constraint": slurm.constraint}.items():
        if value is not None:
            yield f"{name}={value}"
    yield f"nodes={cluster.nodes}"
    yield "ntasks-per-node=1"
    if cluster.nodes > 1:
        yield "exclusive"  # at its end symmetric-run stops all of Ray on its machine
    if slurm.cpus_per_node:
        yield f"cpus-per-task={slurm.cpus_per_node}"
    if cluster.gpus_per_node:
        yield f"gpus-per-node={cluster.gpus_per_node}"
    yield f"time={slurm.time_limit}"
    yield f"signal=B:USR1@{round(60 * slurm.stop_minutes)}"
    yield "requeue"
    yield "open-mode=append"
    yield f"output={_log_file(folder, stage)}"


def _command(job: Job, stage: str, folder: Path) -> str:
    arguments = run_arguments(folder / "config.yaml", stage, job.run_dir)
    command = shell([sys.executable, "-c", COMMAND, *arguments])
    cluster = job.config.cluster
    if cluster.nodes == 1:
        return command
    return SEVERAL.format(
        folder=shell([str(Path(sys.executable).parent)]),
        port=cluster.slurm.port,
        nodes=cluster.nodes,
        command=command,
    )


def _log_file(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.log"


def _ended(folder: Path, stage: str) -> Path:
    """Has the exit code of a job that is over: Slurm forgets it after minutes."""
    return folder / f"{stage}.exit"


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
        answer = _slurm("sbatch", "--parsable", *after, *kill, str(folder / name))
        ids[name.removesuffix(".sh")] = answer.partition(";")[0]
    return ids


def state(folder: Path, submission: Submission, stage: str) -> str:
    """One of the words of pipeline/submit/jobs.py."""
    ended = _ended(folder, stage)
    if ended.exists():
        return {"0": "done", "75": "stopped"}.get(ended.read_text().strip(), "failed")
    asked = _asked("scontrol", "show", "job", submission.ids[stage], "--oneliner")
    if asked.returncode and "Invalid job id" not in asked.stderr:
        raise UserError(_explained(asked.stderr))
    fields = dict(word.partition("=")[::2] for word in asked.stdout.split())
    return STATES.get(fields["JobState"], "failed") if fields else "lost"


def log(folder: Path, submission: Submission, stage: str) -> str:
    """What the job has printed so far."""
    file = _log_file(folder, stage)
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


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
    if any(words in complaint for words in NO_SUCH_MACHINES):
        return (
            "Slurm has no such machines: lower cluster.nodes, cluster.gpus_per_node or "
            "cluster.slurm.cpus_per_node, or name another cluster.slurm.partition"
        )
    return f"Slurm: {' '.join(complaint.split()) or 'no reason given'}"
