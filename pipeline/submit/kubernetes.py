"""Kubernetes: a RayJob for the KubeRay operator, and a ConfigMap with the config.

The image has align; `cluster.kubernetes.volume_claim` is mounted as `cluster.shared`, and holds
models, data and the run directory. KubeRay makes a cluster for the job, removes it at the end and
starts both again when they fail; the run goes on from its newest checkpoint.
"""

import json
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.loading import dump_config
from align.pipeline.submit.job import ENTRY, Job, shell
from align.pipeline.submit.needs import check_run_dir, local_needs, refuse, with_address
from align.pipeline.submit.package import wanted
from align.pipeline.submit.rayjob import RayJob

CONFIG_FOLDER = "/etc/align"
MANIFEST = "rayjob.yaml"


def place(config: RunConfig, stages: tuple[str, ...], run_dir: Path) -> Job:
    """The run as pods will see it. Raises UserError for what no pod could see."""
    options = config.cluster.kubernetes
    for key, value in (("image", options.image), ("volume_claim", options.volume_claim)):
        if value is None:
            raise UserError(f"cluster.kubernetes.{key}: is not given; {WHY[key]}")
    check_run_dir(config, run_dir)
    refuse(local_needs(config, stages), config, "no pod sees it")
    return Job(with_address(config, "auto"), stages, run_dir)


WHY = {
    "image": "name one with align installed",
    "volume_claim": "name a PersistentVolumeClaim, which is mounted as cluster.shared",
}


def texts(job: Job, folder: Path) -> dict[str, str]:
    """The manifest."""
    objects = [_config_map(job), _ray_job(job)]
    return {MANIFEST: yaml.safe_dump_all(objects, sort_keys=False)}


def _name(job: Job) -> str:
    # A letter first and 47 characters at most, or the operator refuses it.
    plain = "".join(c if c.isalnum() else "-" for c in job.config.name.lower())
    return f"align-{plain[:30].strip('-')}-{job.digest}"


def _metadata(job: Job) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "align"}
    namespace = job.config.cluster.kubernetes.namespace
    return {"name": _name(job), "namespace": namespace, "labels": labels}


def _config_map(job: Job) -> dict[str, Any]:
    data = {"config.yaml": dump_config(job.config), "sent.json": json.dumps(wanted(), indent=2)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(job), "data": data}


def _ray_job(job: Job) -> dict[str, Any]:
    cluster, options = job.config.cluster, job.config.cluster.kubernetes
    command = ["python", *ENTRY, "run", f"{CONFIG_FOLDER}/config.yaml", job.stage, str(job.run_dir)]
    # The head only leads: what computes is placed on the workers.
    head = {"rayStartParams": {"num-cpus": "0", "num-gpus": "0"}, "template": _pod(job, gpus=0)}
    workers = {
        "groupName": "gpu" if cluster.gpus_per_node else "cpu",
        "replicas": cluster.nodes,
        "minReplicas": cluster.nodes,
        "maxReplicas": cluster.nodes,
        "rayStartParams": {},
        "template": _pod(job, gpus=cluster.gpus_per_node),
    }
    spec = {
        "entrypoint": shell(command),
        "entrypointNumGpus": 1 if cluster.gpus_per_node and job.config.train.ranks == 1 else 0,
        "backoffLimit": options.retries,
        "shutdownAfterJobFinishes": True,
        "submissionMode": "K8sJobMode",
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            # The operator makes the token, as a Secret; without it any pod may run code here.
            "authOptions": {"mode": "token"},
            "headGroupSpec": head,
            "workerGroupSpecs": [workers],
        },
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": _metadata(job), "spec": spec}


def _pod(job: Job, gpus: int) -> dict[str, Any]:
    options, shared = job.config.cluster.kubernetes, str(job.config.cluster.shared)
    amounts = {"cpu": str(options.cpus_per_node), "memory": options.memory_per_node}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    mounts = {"shared": shared, "config": CONFIG_FOLDER, "memory": "/dev/shm"}
    spec: dict[str, Any] = {
        "containers": [
            {
                "name": "ray",
                "image": options.image,
                "resources": {"limits": amounts, "requests": amounts.copy()},
                "volumeMounts": [{"name": n, "mountPath": path} for n, path in mounts.items()],
            }
        ],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": options.volume_claim}},
            {"name": "config", "configMap": {"name": _name(job)}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    if gpus and options.node_selector:
        spec["nodeSelector"] = options.node_selector
    return {"spec": spec}


def check(manifests: dict[str, str]) -> None:
    """Hold the manifest against the schema. Raises UserError."""
    _, ray_job = yaml.safe_load_all(manifests[MANIFEST])
    try:
        RayJob.model_validate(ray_job)
    except ValidationError as error:
        first = error.errors()[0]
        place_ = ".".join(map(str, first["loc"]))
        raise UserError(
            f"the manifest's {place_}: {first['msg']}, not {first['input']!r}; correct "
            "cluster.kubernetes"
        ) from None


def submit(job: Job, folder: Path, manifests: dict[str, str]) -> dict[str, str]:
    """Hand the manifest to the cluster; stage -> the RayJob's name."""
    file = folder / MANIFEST
    if not shutil.which("kubectl"):
        raise UserError(
            "no `kubectl` here: print the manifest with --dry-run, and apply it where there is one"
        )
    done = subprocess.run(
        ["kubectl", "apply", "-f", str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"kubectl: {' '.join(done.stderr.split())}")
    if f"rayjob.ray.io/{_name(job)} unchanged" in done.stdout:
        raise UserError(
            f"this very RayJob is there already: `kubectl get rayjob {_name(job)}` tells how it "
            f"goes; to run it once more, `kubectl delete rayjob {_name(job)}` first"
        )
    return {job.stage: _name(job)}
