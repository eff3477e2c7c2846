"""Room for workers in a Ray cluster, one bundle of resources for each."""

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from align.data.errors import UserError

PLACEMENT_SECONDS = 30


def reserve(count: int, cpus: float, gpus: float) -> PlacementGroup:
    """Reserve room for all workers, or say in one line that there is none."""
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    group: PlacementGroup = placement_group([bundle] * count, strategy="PACK")
    if not group.wait(timeout_seconds=PLACEMENT_SECONDS):
        remove_placement_group(group)
        gpu = f" and {gpus:g} GPU" if gpus else ""
        raise UserError(
            f"no room for rollout.workers: {count} with {cpus:g} CPU{gpu} each; the cluster has "
            f"{ray.available_resources().get('CPU', 0):g} of "
            f"{ray.cluster_resources().get('CPU', 0):g} CPUs free. Lower rollout.workers or "
            "cluster.cpus_per_worker"
        )
    return group


def nodes_of(group: PlacementGroup) -> dict[int, str]:
    """Address of the node of every bundle that has one."""
    address = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    placed = placement_group_table(group)["bundles_to_node_id"]
    return {bundle: address[node] for bundle, node in placed.items() if node in address}
