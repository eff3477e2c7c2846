"""What the user says about each place that `align submit` sends a run to. No torch here.

The number of machines and of their GPUs, and the folder that all of them see, are the same for all
targets: they stand in `cluster` itself.
"""

from pydantic import Field

from align.data.config import Section


class SlurmOptions(Section):
    """`align submit --target slurm`."""

    partition: str | None = None
    """Slurm's default, if not given."""
    account: str | None = None
    """Who pays, where the site asks."""
    qos: str | None = None
    """Quality of service, where the site asks."""
    constraint: str | None = None
    """Features that a node must have, such as `h100`."""
    cpus_per_node: int | None = Field(default=None, gt=0)
    """Processors of each machine that the job takes; all of them on several machines, Slurm's
    default on one, if not given."""
    time_limit: str = Field(default="24:00:00", pattern=r"^(\d+-)?\d+:\d\d:\d\d$")
    """[DAYS-]HOURS:MINUTES:SECONDS, after which the job queues again and goes on."""
    stop_minutes: float = Field(default=10.0, ge=1)
    """So long before the limit the run ends its step and saves."""
    chain: bool = False
    """One job a stage, each waiting for the one before, instead of one job for all."""
    port: int = Field(default=6379, gt=1023, lt=65536)
    """Ray's, where there are several machines."""
    setup: tuple[str, ...] = ()
    """Shell lines before the run, such as `module load cuda`."""


class RayOptions(Section):
    """`align submit --target ray`: the Jobs API of a cluster that runs."""

    address: str = "http://127.0.0.1:8265"
    """Of the cluster's dashboard."""
    python: str = "python"
    """The interpreter there, for a cluster on whose PATH another comes first."""
    upload_mib: float = Field(default=100.0, gt=0)
    """What may travel with a job, MiB; Ray itself refuses more than 512."""
    entrypoint_cpus: float = Field(default=0.0, ge=0)
    """CPUs kept for the run's own process, which trains if `train.ranks` is 1."""
    entrypoint_resources: dict[str, float] = Field(default={})
    """Custom resources that the machine of that process must have."""
    metadata: dict[str, str] = Field(default={})
    """Shown with the job by Ray's dashboard."""
    stop_minutes: float = Field(default=10.0, gt=0)
    """How long a stopped job has for its step and its checkpoint before it is killed."""


class KubernetesOptions(Section):
    """`align submit --target kubernetes`: a RayJob of the KubeRay operator."""

    image: str | None = None
    """With align and its dependencies installed."""
    namespace: str = "default"
    """Where the job lives."""
    volume_claim: str | None = None
    """A PersistentVolumeClaim that many nodes may write, mounted as `cluster.shared`."""
    cpus_per_node: int = Field(default=8, gt=0)
    """Processors of each worker pod."""
    memory_per_node: str = Field(default="64Gi", pattern=r"^\d+(\.\d+)?(Mi|Gi|Ti)$")
    """Memory of each worker pod."""
    retries: int = Field(default=3, ge=0)
    """How often KubeRay starts the job again on a new cluster."""
    node_selector: dict[str, str] = Field(default={})
    """Labels that the nodes of GPU pods must have."""


class SkyPilotOptions(Section):
    """`align submit --target skypilot`: a managed job that outlives preempted spot machines."""

    accelerator: str | None = None
    """SkyPilot's name of the GPU, such as `H100`; `cluster.gpus_per_node` of them on each."""
    infra: str | None = None
    """Cloud, region or Kubernetes context, such as `aws/us-east-1`; the cheapest, if not given."""
    use_spot: bool = True
    """Machines that may be taken away, for a third of the price."""
    bucket: str | None = Field(default=None, pattern=r"^[a-z0-9]+://.")
    """Storage such as `s3://runs`, mounted as `cluster.shared`."""
    setup: tuple[str, ...] = ("pip install align-rlhf",)
    """Shell lines that prepare a fresh machine."""
