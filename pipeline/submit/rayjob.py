"""The part of KubeRay's RayJob (ray.io/v1) that align writes, as a schema.

The CRD itself is 1.4 MB, of which align writes thirty keys. Their names and types are written here
after it; a key that is not here is an error, since Kubernetes would drop it without a word. What
the operator refuses later, though the CRD allows it, is refused here too. (KubeRay 1.5:
ray-operator/config/crd/bases/ray.io_rayjobs.yaml, controllers/ray/utils/validation.go; names:
https://kubernetes.io/docs/concepts/overview/working-with-objects/names/)
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from align.data.config import Section

JobName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")]
"""KubeRay makes names of services from it: a letter first, and room for what is appended."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A label of a domain name."""
LongName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)
]
"""A whole domain name."""
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|Mi|Gi|Ti)?$")]


class Metadata(Section):
    """What an object is called."""

    name: JobName
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

    claimName: LongName


class FromConfigMap(Section):
    """Files out of a ConfigMap."""

    name: LongName


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


class Auth(Section):
    """Who may talk to the cluster."""

    mode: Literal["token", "disabled"]


class RayCluster(Section):
    """The Ray cluster of the job."""

    rayVersion: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    authOptions: Auth
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
