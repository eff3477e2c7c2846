"""Rollout workers on a Ray cluster of two nodes that loses one, and on one without room."""

import gc
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from align.data.errors import UserError
from align.policy.rollout import SampleRequest
from align.policy.sample import SamplingSettings, sample
from align.policy.weights import pack
from align.policy.workers import RolloutWorkers

SETTINGS = SamplingSettings(temperature=0.7, max_new_tokens=6, eos_id=2)
REQUESTS = [SampleRequest([5 + row], (0, 0, row, 0)) for row in range(12)]
STORE = 80 * 2**20
"""Bytes, about the least that Ray takes."""


@pytest.fixture(autouse=True)
def no_sockets_left() -> Iterator[None]:
    """Ray's node leaves the sockets that found it free ports to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def cluster(nodes: int, **system: Any) -> Iterator[Cluster]:
    """Nodes with a CPU each; the last is not the driver's."""
    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head | {"_system_config": system})
    try:
        for _ in range(nodes - 1):
            made.add_node(num_cpus=1, object_store_memory=STORE)
        ray.init(made.address, log_to_driver=False, logging_level=logging.ERROR)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def larger_than_the_store() -> PreTrainedModel:
    """Two layers as in other tests, and 90 MB of embeddings."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=350_000,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.5,
        )
    )
    model.eval()
    return model


def test_a_lost_node_costs_its_units_and_the_others_go_on(
    tiny_causal: Callable[[str], PreTrainedModel], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_causal("llama")
    packed = pack(model.named_parameters())
    with (
        cluster(nodes=2) as nodes,
        RolloutWorkers(2, 1.0, 1, model.config, None, torch.float32) as group,
    ):
        group.sync(packed, version=0)
        before = group.sample(REQUESTS, SETTINGS, rows_per_unit=4)
        (_, second) = nodes.list_all_nodes()
        nodes.remove_node(second)
        # Nowhere is there room for the second worker, then or at the next sync.
        assert group.sample(REQUESTS, SETTINGS, rows_per_unit=4) == before
        group.sync(packed, version=0)
        assert group.sample(REQUESTS, SETTINGS, rows_per_unit=4) == before
        assert len(group._ready) == 1
    assert re.search(
        r"rollout worker \d on node [\d.]+, with unit \d: [^.]*; it starts again", caplog.text
    )


def test_weights_that_the_object_store_cannot_hold_travel_by_disk() -> None:
    model = larger_than_the_store()
    with (
        cluster(nodes=1),
        RolloutWorkers(1, 1.0, 1, model.config, None, torch.float32) as group,
    ):
        group.sync(pack(model.named_parameters()), version=0)
        group.sync(pack(model.named_parameters()), version=0)
        drawn = group.sample(REQUESTS, SETTINGS, rows_per_unit=12)
    expected = sample(model, REQUESTS, SETTINGS)
    assert [one.response_ids for one in drawn] == [one.response_ids for one in expected]


def test_without_room_on_disk_either_it_is_one_line() -> None:
    model = larger_than_the_store()
    with (
        cluster(nodes=1, local_fs_capacity_threshold=1e-9),
        RolloutWorkers(1, 1.0, 1, model.config, None, torch.float32) as group,
        pytest.raises(UserError) as caught,
    ):
        group.sync(pack(model.named_parameters()), version=0)
    assert "\n" not in str(caught.value)
    assert "object store has no room for 86 MiB of weights" in str(caught.value)
