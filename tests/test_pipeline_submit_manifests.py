"""`align submit --target kubernetes|skypilot`: what is written, and what is refused."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from align.data.errors import UserError
from align.pipeline.config import STAGES
from align.pipeline.loading import load_config
from align.pipeline.submit import entry, kubernetes, skypilot
from align.pipeline.submit.job import Job
from align.pipeline.submit.jobs import states
from align.pipeline.submit.record import record
from align.pipeline.submit.send import send

ON_GPUS = ("cluster.gpus_per_node=8", "train.ranks=8", "cluster.rollout_gpus=0", "cluster.nodes=2")


def manifest(tmp_path: Path, *overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the RayJob, checked against the schema."""
    more = ["cluster.kubernetes.image=align:1", "cluster.kubernetes.volume_claim=runs"]
    config = load_config("tiny", [*more, f"cluster.shared={tmp_path}", *overrides])
    job = kubernetes.place(config, STAGES, tmp_path / "run")
    texts = kubernetes.texts(job, tmp_path)
    kubernetes.check(texts)
    config_map, ray_job = yaml.safe_load_all(texts["rayjob.yaml"])
    return config_map, ray_job


def test_gpu_pods_have_gpus_and_the_head_leads_only(tmp_path: Path) -> None:
    _, ray_job = manifest(tmp_path, *ON_GPUS, "cluster.kubernetes.node_selector={gpu: h100}")
    cluster = ray_job["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    assert (workers["groupName"], workers["replicas"]) == ("gpu", 2)
    pod = workers["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod["nodeSelector"] == {"gpu": "h100"}
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    assert "nodeSelector" not in head


def test_on_cpus_the_group_is_one_of_cpus(tmp_path: Path) -> None:
    _, ray_job = manifest(tmp_path)
    [workers] = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["groupName"], workers["replicas"]) == ("cpu", 1)
    assert ray_job["spec"]["entrypointNumGpus"] == 0


def test_every_pod_has_the_shared_storage_the_config_and_shared_memory(tmp_path: Path) -> None:
    config_map, ray_job = manifest(tmp_path)
    cluster = ray_job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"shared": str(tmp_path), "config": "/etc/align", "memory": "/dev/shm"}
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": "runs"}} in pod["volumes"]
        named = [one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one]
        assert named == [config_map["metadata"]["name"]]


def test_a_failed_job_starts_again_and_its_run_goes_on(tmp_path: Path) -> None:
    config_map, ray_job = manifest(tmp_path, "cluster.kubernetes.retries=5")
    assert ray_job["spec"]["backoffLimit"] == 5
    assert ray_job["spec"]["entrypoint"] == (
        f"python -m align.pipeline.submit.entry run /etc/align/config.yaml all {tmp_path}/run"
    )
    there = tmp_path / "config.yaml"
    there.write_text(config_map["data"]["config.yaml"], encoding="utf-8")
    assert load_config(there).cluster.address == "auto"


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("cluster.kubernetes.image=null", "kubernetes.image: is not given; name one with align"),
        ("cluster.kubernetes.volume_claim=null", "kubernetes.volume_claim: is not given; name a"),
        ("cluster.kubernetes.volume_claim=My_Claim", "persistentVolumeClaim.claimName: .*My_Claim"),
        ("cluster.kubernetes.namespace=Team A", "metadata.namespace: .*'Team A'"),
        ("sft.model=/etc", r"sft.model: /etc .*: no pod sees it; move it into"),
    ],
)
def test_what_kubernetes_would_refuse_is_one_line(
    override: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        manifest(tmp_path, override)
    assert "\n" not in str(caught.value)


def test_a_key_that_the_schema_does_not_have_is_found(tmp_path: Path) -> None:
    config_map, ray_job = manifest(tmp_path)
    ray_job["spec"]["backOffLimit"] = 1
    text = yaml.safe_dump_all([config_map, ray_job])
    with pytest.raises(UserError, match=r"the manifest's spec.backOffLimit: Extra inputs"):
        kubernetes.check({"rayjob.yaml": text})


@pytest.mark.parametrize("name", ["7b", "A_long.name-of-more-than-thirty-letters"])
def test_a_name_is_what_the_operator_takes(name: str, tmp_path: Path) -> None:
    """A letter first, and six of 53 characters are the operator's own."""
    config_map, ray_job = manifest(tmp_path, f"name={name}", "cluster.kubernetes.volume_claim=a.b")
    made = ray_job["metadata"]["name"]
    assert re.fullmatch("[a-z][-a-z0-9]*[a-z0-9]", made) and len(made) <= 47
    assert config_map["metadata"]["name"] == made


def test_the_operator_makes_the_token_that_guards_the_cluster(tmp_path: Path) -> None:
    _, ray_job = manifest(tmp_path)
    assert ray_job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_a_job_that_kubernetes_knows_already_is_not_called_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["cluster.kubernetes.image=align:1", "cluster.kubernetes.volume_claim=runs"]
    config = load_config("tiny", [*more, f"cluster.shared={tmp_path}"])
    name = kubernetes.place(config, STAGES, tmp_path / "run").digest
    kubectl = tmp_path / "kubectl"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for word in ("created", "unchanged"):
        kubectl.write_text(f"#!/bin/sh\necho rayjob.ray.io/align-tiny-{name} {word}\n")
        kubectl.chmod(0o755)
        if word == "created":
            send(config, STAGES, tmp_path / "run", "kubernetes", "auto", dry_run=False)
        else:
            with pytest.raises(UserError, match=f"kubectl delete rayjob align-tiny-{name}` first"):
                send(config, STAGES, tmp_path / "run", "kubernetes", "auto", dry_run=False)
    assert [path.name for path in (tmp_path / "run" / "jobs").iterdir()] == ["0001"]


def task(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    more = ["cluster.skypilot.bucket=s3://runs", "cluster.skypilot.accelerator=H100"]
    config = load_config("tiny", [*more, f"cluster.shared={tmp_path}", *overrides])
    job = skypilot.place(config, STAGES, tmp_path / "run")
    texts = skypilot.texts(job, tmp_path)
    skypilot.check(texts)
    made: dict[str, Any] = yaml.safe_load(texts["task.yaml"])
    return made


def test_a_task_survives_its_machine(tmp_path: Path) -> None:
    made = task(tmp_path, *ON_GPUS)
    assert made["num_nodes"] == 2
    assert made["resources"]["accelerators"] == "H100:8"
    assert made["resources"]["use_spot"] is True
    assert made["resources"]["job_recovery"]["max_restarts_on_errors"] == 3
    assert made["file_mounts"][str(tmp_path)] == {"source": "s3://runs", "mode": "MOUNT"}
    for name in ("config.yaml", "sent.json"):
        assert made["file_mounts"][f"/tmp/align/{name}"] == str(tmp_path / name)


def test_several_machines_never_touch_the_ray_that_skypilot_runs(tmp_path: Path) -> None:
    run = task(tmp_path, *ON_GPUS)["run"]
    assert "ray stop" not in run and "symmetric-run" not in run
    assert 'ray start --address "$head:6379" --block' in run
    assert "ray start" not in task(tmp_path)["run"]  # one machine: the run starts its own


@pytest.mark.skipif(importlib.util.find_spec("sky") is None, reason="SkyPilot is not installed")
@pytest.mark.filterwarnings("ignore")  # SQLAlchemy's, about SkyPilot
def test_skypilots_own_parser_takes_the_task_and_refuses_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    task(tmp_path, *ON_GPUS)
    with pytest.raises(UserError, match="SkyPilot refuses the task: Invalid task name run-"):
        task(tmp_path, *ON_GPUS, "name=run-")
    with pytest.raises(UserError, match="refuses the task: Invalid resources YAML: 'awz/x' does"):
        task(tmp_path, *ON_GPUS, "cluster.skypilot.infra=awz/x")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("cluster.skypilot.bucket=null", "skypilot.bucket: is not given; name storage such as"),
        ("cluster.skypilot.accelerator=null", "skypilot.accelerator: is not given; name the GPU"),
    ],
)
def test_what_a_task_lacks_is_one_line(override: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        task(tmp_path, *ON_GPUS, override)


@pytest.mark.parametrize(("target", "tool"), [("kubernetes", "kubectl"), ("skypilot", "sky")])
def test_without_the_targets_tool_nothing_is_left_behind(
    target: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    more = ["kubernetes.image=align:1", "kubernetes.volume_claim=runs", "skypilot.bucket=s3://x"]
    config = load_config("tiny", [f"cluster.{one}" for one in (*more, f"shared={tmp_path}")])
    with pytest.raises(UserError, match=f"no `{tool}` here"):
        send(config, STAGES, tmp_path / "run", target, "auto", dry_run=False)
    assert not list((tmp_path / "run" / "jobs").iterdir())


def test_align_jobs_names_the_tool_that_knows_these_jobs(tmp_path: Path) -> None:
    config = load_config("tiny", [f"cluster.shared={tmp_path}"])
    job = Job(config, STAGES, tmp_path)
    folder = tmp_path / "jobs" / "0001"
    folder.mkdir(parents=True)
    record(folder, target="skypilot", ids={"all": "tiny"}, job=job)
    with pytest.raises(UserError, match="knows no skypilot jobs; ask `sky jobs queue`"):
        states(tmp_path)


def test_the_entry_point_needs_nothing_of_align_to_start() -> None:
    """An interpreter that is too old, or has no packages, is to say so."""
    source = Path(entry.__file__).read_text(encoding="utf-8")
    top = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in top if "align" in line or "packaging" in line]
