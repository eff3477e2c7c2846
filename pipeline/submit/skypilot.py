"""SkyPilot: a managed job on whichever cloud has room, started again if its machine is taken away.

The bucket is mounted as `cluster.shared` and holds models, data and the run directory, so a new
machine goes on from the newest checkpoint. SkyPilot has a Ray of its own on each machine, which
`ray symmetric-run` and `ray stop` would mistake for ours: on several machines the task starts ours
beside it and ends what it started.
"""

import importlib
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.submit.job import ENTRY, Job, shell
from align.pipeline.submit.needs import check_run_dir, local_needs, refuse, with_address
from align.pipeline.submit.package import wanted

TASK, SENT = "task.yaml", "sent.json"
FOLDER = "/tmp/align"
CONFIG = f"{FOLDER}/config.yaml"
RETRIES = 3

SEVERAL = """\
head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
if [ "$SKYPILOT_NODE_RANK" -ne 0 ]; then
  until ray health-check --address "$head:6379"; do sleep 1; done
  ray start --address "$head:6379" --block || true  # ends with the head
  exit 0
fi
ray start --head --port 6379 --block &
ray=$!
until [ "$({nodes} 2> /dev/null)" = "$SKYPILOT_NUM_NODES" ]; do sleep 1; done
{command}
code=$?
kill "$ray"
exit "$code"
"""
NODES = (
    """python -c 'import os, ray; ray.init(os.environ["RAY_ADDRESS"]); print(len(ray.nodes()))'"""
)


def place(config: RunConfig, stages: tuple[str, ...], run_dir: Path) -> Job:
    """The run as the machines will see it. Raises UserError for what none could see."""
    options, cluster = config.cluster.skypilot, config.cluster
    if cluster.gpus_per_node and options.accelerator is None:
        raise UserError(
            "cluster.skypilot.accelerator: is not given; name the GPU as `sky show-gpus` does"
        )
    if options.bucket is None:
        raise UserError(
            "cluster.skypilot.bucket: is not given; name storage such as s3://runs, which is "
            "mounted as cluster.shared"
        )
    check_run_dir(config, run_dir)
    refuse(local_needs(config, stages), config, "no machine sees it")
    return Job(with_address(config, "auto" if cluster.nodes > 1 else "local"), stages, run_dir)


def texts(job: Job, folder: Path) -> dict[str, str]:
    """The task, and what the machines compare their align with."""
    cluster, options = job.config.cluster, job.config.cluster.skypilot
    resources: dict[str, Any] = {
        "use_spot": options.use_spot,
        "job_recovery": {"strategy": "EAGER_NEXT_REGION", "max_restarts_on_errors": RETRIES},
    }
    if cluster.gpus_per_node:
        resources["accelerators"] = f"{options.accelerator}:{cluster.gpus_per_node}"
    if options.infra:
        resources["infra"] = options.infra
    task = {
        "name": job.config.name,
        "num_nodes": cluster.nodes,
        "resources": resources,
        "file_mounts": {
            str(cluster.shared): {"source": options.bucket, "mode": "MOUNT"},
            CONFIG: str(folder / "config.yaml"),
            f"{FOLDER}/{SENT}": str(folder / SENT),
        },
        "setup": "\n".join(options.setup),
        "run": _run(job),
    }
    return {
        TASK: yaml.safe_dump(task, sort_keys=False),
        SENT: json.dumps(wanted(), indent=2) + "\n",
    }


def _run(job: Job) -> str:
    command = shell(["python", *ENTRY, "run", CONFIG, job.stage, str(job.run_dir)])
    if job.config.cluster.nodes == 1:
        return command
    return 'export RAY_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):6379"\n' + SEVERAL.format(
        command=command, nodes=NODES
    )


def check(tasks: dict[str, str]) -> None:
    """Ask SkyPilot's own parser, where it is installed. Raises UserError."""
    if importlib.util.find_spec("sky") is None:
        return
    task: Any = importlib.import_module("sky").Task
    try:
        # What it validates beyond the name needs the clouds' catalogues, from the network.
        task.from_yaml_config(yaml.safe_load(tasks[TASK])).validate_name()
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"SkyPilot refuses the task: {reason}") from None


def submit(job: Job, folder: Path, tasks: dict[str, str]) -> dict[str, str]:
    """Hand the task to SkyPilot; stage -> its name."""
    if not shutil.which("sky"):
        raise UserError("no `sky` here: pip install skypilot, or print the task with --dry-run")
    launch = ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", job.config.name]
    launch.append(str(folder / TASK))
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"sky: {' '.join(done.stderr.split())}")
    return {job.stage: job.config.name}
