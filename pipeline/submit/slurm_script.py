"""The batch script that Slurm runs until the work is done.

Slurm starts a job again by itself when it is preempted or a node fails (`--requeue`), and not when
its time is up: the script asks for a signal before that, lets the run save, and queues itself again
on exit code 75. On several machines `ray symmetric-run` starts Ray on each, waits until all are
there, and runs the command on the first.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from align.pipeline.submit.job import COMMAND, Job, run_arguments, shell

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


def script(job: Job, stage: str, folder: Path) -> str:
    """What `sbatch` gets for one stage, or for all."""
    setup = "\n".join(job.config.cluster.slurm.setup)
    return SCRIPT.format(
        # Slurm reads these lines as a shell would.
        options="\n".join(f"#SBATCH {shell([one])}" for one in _options(job, stage, folder)),
        submission=folder / "submission.json",
        run_dir=shell([str(job.run_dir)]),
        ended=shell([str(exit_file(folder, stage))]),
        setup=f"\n{setup}\n" if setup else "",
        command=_command(job, stage, folder),
    )


def _options(job: Job, stage: str, folder: Path) -> Iterator[str]:
    cluster, slurm = job.config.cluster, job.config.cluster.slurm
    yield f"--job-name={job.config.name}-{stage}"
    named = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos}
    for name, value in {**named, "constraint": slurm.constraint}.items():
        if value is not None:
            yield f"--{name}={value}"
    yield f"--nodes={cluster.nodes}"
    yield "--ntasks-per-node=1"
    if cluster.nodes > 1:
        yield "--exclusive"  # at its end symmetric-run stops all of Ray on its machine
    if slurm.cpus_per_node:
        yield f"--cpus-per-task={slurm.cpus_per_node}"
    if cluster.gpus_per_node:
        yield f"--gpus-per-node={cluster.gpus_per_node}"
    yield f"--time={slurm.time_limit}"
    yield f"--signal=B:USR1@{round(60 * slurm.stop_minutes)}"
    yield "--requeue"
    yield "--open-mode=append"
    # A percent sign would stand for a number of Slurm's.
    yield f"--output={log_file(folder, stage)}".replace("%", "%%")


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


def log_file(folder: Path, stage: str) -> Path:
    """Has what a job prints, each time it starts."""
    return folder / f"{stage}.log"


def exit_file(folder: Path, stage: str) -> Path:
    """Has the exit code of a job that is over: Slurm forgets it after minutes."""
    return folder / f"{stage}.exit"
