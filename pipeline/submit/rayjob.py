"""The part of KubeRay's RayJob (ray.io/v1) that align writes, as a schema.

The names and types are those of the operator's CRD; a key that is not here is an error, since
Kubernetes would drop it without a word. (KubeRay: ray-operator/apis/ray/v1/rayjob_types.go and
raycluster_types.go; pods: the core/v1 API of Kubernetes.)
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from align.data.config import Section

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?$")]
"""KubeRay appends to a job's name what fills the 63 letters that Kubernetes allows."""
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|Mi|Gi|Ti)?$")]


class Metadata(Section):
    """What an object is called."""

    name: Name
    namespace: Name
    labels: dict[str, str]


class Resources(Section):
    """What a container gets."""

    limits: dict[str, Quantity]
    requests: dict[str, Quantity]


class Mount(Section):
    """Where a container sees a volume."""

    name: Name
    mountPath: Annotated[str, StringConstraints(pattern="^/")]


class Container(Section):
    """One program of a pod."""

    name: Name
    image: Annotated[str, StringConstraints(min_length=1)]
    resources: Resources
    volumeMounts: tuple[Mount, ...]


class Claim(Section):
    """Storage that outlives the pod."""

    claimName: Name


class FromConfigMap(Section):
    """Files out of a ConfigMap."""

    name: Name


class EmptyDir(Section):
    """A folder that goes with the pod."""

    medium: Literal["Memory"]


class Volume(Section):
    """One of the three."""

    name: Name
    persistentVolumeClaim: Claim | None = None
    configMap: FromConfigMap | None = None
    emptyDir: EmptyDir | None = None


class PodSpec(Section):
    """A pod of the Ray cluster."""

    containers: tuple[Container, ...] = Field(min_length=1)
    volumes: tuple[Volume, ...]
    nodeSelector: dict[str, str] | None = None


class PodTemplate(Section):
    """What pods of a group are made from."""

    spec: PodSpec


class HeadGroup(Section):
    """The pod with Ray's head."""

    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(HeadGroup):
    """Pods of one kind."""

    groupName: Name
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=0)


class RayCluster(Section):
    """The Ray cluster of the job."""

    rayVersion: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    headGroupSpec: HeadGroup
    workerGroupSpecs: tuple[WorkerGroup, ...]


class RayJobSpec(Section):
    """A command on a Ray cluster that is made for it and goes with it."""

    entrypoint: str
    entrypointNumGpus: float = Field(ge=0)
    backoffLimit: int = Field(ge=0)
    shutdownAfterJobFinishes: bool
    submissionMode: Literal["K8sJobMode", "HTTPMode"]
    rayClusterSpec: RayCluster


class RayJob(Section):
    """The manifest."""

    apiVersion: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayJob"] = "RayJob"
    metadata: Metadata
    spec: RayJobSpec
