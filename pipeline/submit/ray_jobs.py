"""Ray's Jobs API: a cluster that runs already, on this machine or elsewhere.

The code travels with the job (pipeline/submit/package.py), and the entry point runs until the work
is done (pipeline/submit/entry.py). The submission id is the digest of what is run and the number
of the attempt, since Ray refuses an id that it knows: a repeated submit attaches to the live job.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.loading import load_config
from align.pipeline.submit import entry, package
from align.pipeline.submit.job import ENTRY, Job, shell
from align.pipeline.submit.needs import finished_stages, local_needs, relocated, with_address
from align.pipeline.submit.options import RayOptions
from align.pipeline.submit.ray_client import asking
from align.pipeline.submit.record import Submission
from align.pipeline.submit.results import copy_results
from align.pipeline.submit.targets import LIVE, POLL_SECONDS

STATES = {
    "PENDING": "queued",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "STOPPED": "stopped",
    "FAILED": "failed",
}
WORKING_DIR = "<what package.txt lists>"
FETCH_SECONDS = 600
PATIENCE_SECONDS = 60
NO_AGENT = (
    "the cluster takes no jobs: the port of its dashboard agent is another program's; start Ray "
    "there with --dashboard-agent-listen-port"
)


def place(config: RunConfig, stages: tuple[str, ...], run_dir: Path) -> Job:
    """The run as the cluster will see it. Raises UserError where something cannot get there."""
    shared = config.cluster.shared
    if shared is None:
        raise UserError(
            "cluster.shared: is not given; name a folder that all machines of the cluster see: the "
            "run directory goes there"
        )
    inputs, finished = local_needs(config, stages), finished_stages(config, run_dir)
    package.check_size([*inputs, *finished], config.cluster.ray.upload_mib)
    uploads = package.uploads(inputs, finished)
    run_there = run_dir if run_dir.is_relative_to(shared) else shared / run_dir.name
    return Job(with_address(relocated(config, dict(uploads)), "auto"), stages, run_there, uploads)


def texts(job: Job, folder: Path) -> dict[str, str]:
    """The request as it goes to Ray, but for the attempt's number; and what travels with it."""
    request = json.dumps(_request(job), indent=2) + "\n"
    return {"job.json": request, "package.txt": package.contents(job)}


def _request(job: Job) -> dict[str, Any]:
    ray, cluster = job.config.cluster.ray, job.config.cluster
    arguments = ["run", "config.yaml", job.stage, str(job.run_dir)]
    arguments += [] if job.resume == "auto" else [job.resume]
    return {
        "submission_id": f"{job.config.name}-{job.digest}",
        "entrypoint": shell([ray.python, *ENTRY, *arguments]),
        "entrypoint_num_cpus": ray.entrypoint_cpus,
        # One rank trains in the entry point's own process.
        "entrypoint_num_gpus": 1 if cluster.gpus_per_node and job.config.train.ranks == 1 else 0,
        "entrypoint_resources": ray.entrypoint_resources,
        "metadata": {"align": job.stage, "run_dir": str(job.run_dir), **ray.metadata},
        "runtime_env": {
            "working_dir": WORKING_DIR,
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(round(60 * ray.stop_minutes))},
        },
    }


def check(requests: dict[str, str]) -> None:
    """Nothing to ask here: the config was checked, and Ray checks the rest when it gets the job."""


def submit(job: Job, folder: Path, requests: dict[str, str]) -> dict[str, str]:
    """Send the job, or find it on its way; stage -> submission id."""
    request = json.loads(requests["job.json"])
    prefix = request["submission_id"]
    with asking(job.config.cluster.ray.address) as client:
        known = {
            str(one.submission_id): STATES[one.status.value]
            for one in client.list_jobs()
            if str(one.submission_id).startswith(f"{prefix}-")
        }
        for name, state_there in known.items():
            if state_there in ("queued", "running"):
                return {job.stage: name}
        attempts = [int(name.rpartition("-")[2]) for name in known]
        request["submission_id"] = f"{prefix}-{max(attempts, default=0) + 1}"
        with tempfile.TemporaryDirectory() as staged:
            package.make(Path(staged), job)
            request["runtime_env"]["working_dir"] = staged
            return {job.stage: _submitted(client, request)}


def _submitted(client: Any, request: dict[str, Any]) -> str:
    """Send a request, to a cluster that may have come up a moment ago or be busy."""
    from requests.exceptions import ConnectionError as Dropped

    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return str(client.submit_job(**request))
        except (RuntimeError, Dropped) as error:
            no_agent = "No available agent" in str(error)
            if not (no_agent or isinstance(error, Dropped)):
                raise
            if time.monotonic() > until:
                raise (UserError(NO_AGENT) if no_agent else error) from None
            time.sleep(1)


def state(folder: Path, submission: Submission, stage: str) -> str:
    """One of the words of pipeline/submit/jobs.py."""
    with asking(_options(folder).address) as client:
        try:
            info = client.get_job_info(submission.ids[stage])
        except RuntimeError as error:
            if "404" in str(error):
                return "lost"  # the cluster was started anew
            raise
        return STATES[info.status.value]


def log(folder: Path, submission: Submission, stage: str) -> str:
    """What the job has printed so far."""
    with asking(_options(folder).address) as client:
        return str(client.get_job_logs(submission.ids[stage]))


def follow(folder: Path, submission: Submission, stage: str) -> Iterator[str]:
    """What the job prints, as it prints it, until it ends. A connection that drops is made again,
    and goes on where the last one was."""
    from aiohttp import ClientError

    printed, live = 0, True
    while live:
        live, seen = state(folder, submission, stage) in LIVE, 0
        with asking(_options(folder).address) as client, suppress(ClientError, RuntimeError):
            for text in _tail(client, submission.ids[stage]):
                seen += len(text)
                if seen > printed:
                    yield text[printed - seen :]
                    printed = seen
            live = state(folder, submission, stage) in LIVE
        if live:
            time.sleep(POLL_SECONDS)


def _tail(client: Any, name: str) -> Iterator[str]:
    """The log from its beginning, and then what is added, until the job or the connection ends."""
    lines = client.tail_job_logs(name)

    async def next_lines() -> str | None:
        return await anext(lines, None)

    with asyncio.Runner() as runner:
        while (text := runner.run(next_lines())) is not None:
            yield str(text)


def request_stop(folder: Path, submission: Submission) -> None:
    """The signal makes the run set the flag that its ranks look at once a step; Ray waits for the
    checkpoint, `cluster.ray.stop_minutes` long, before it kills."""
    for stage in submission.ids:
        kill(folder, submission, stage)


def kill(folder: Path, submission: Submission, stage: str) -> None:
    """End a job, or take it from the queue."""
    with asking(_options(folder).address) as client:
        client.stop_job(submission.ids[stage])


def fetch(folder: Path, submission: Submission, destination: Path) -> None:
    """Copy the results from `cluster.shared`, or where this machine does not see it, have a job
    print them."""
    if Path(submission.run_dir).is_dir():
        copy_results(Path(submission.run_dir), destination)
        return
    ray = _options(folder)
    with asking(ray.address) as client:
        fetch_printed(client, ray, submission.run_dir, destination)


def fetch_printed(client: Any, ray: RayOptions, run_dir: str, destination: Path) -> None:
    """Have a job print the results of a run, and unpack them."""
    with tempfile.TemporaryDirectory() as staged:
        package.copy_code(Path(staged))
        entrypoint = shell([ray.python, *ENTRY, "pack", run_dir])
        name = _submitted(
            client, {"entrypoint": entrypoint, "runtime_env": {"working_dir": staged}}
        )
    until = time.monotonic() + FETCH_SECONDS
    while STATES[client.get_job_status(name).value] in ("queued", "running"):
        if time.monotonic() > until:
            raise UserError(f"{run_dir}: not packed in {FETCH_SECONDS} s; try again")
        time.sleep(1)
    destination.mkdir(parents=True, exist_ok=True)
    if not entry.unpack(client.get_job_logs(name), destination):
        raise UserError(f"{run_dir}: the job has left nothing yet")


def _options(folder: Path) -> RayOptions:
    return load_config(folder / "config.yaml").cluster.ray
