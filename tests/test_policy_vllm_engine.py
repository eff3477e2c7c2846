"""vLLM as the workers' sampler, for real, on CPUs: `make test-vllm` runs these."""

import importlib.util
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import psutil
import pytest
import ray
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from align.data.errors import UserError
from align.policy import workers
from align.policy.adapters import add_adapter
from align.policy.config import AdapterConfig, LoRAConfig
from align.policy.logprobs import response_logprobs, text_batch
from align.policy.rollout import Sample, SampleRequest, pad_rows
from align.policy.sample import SamplingSettings
from align.policy.vllm_engine import VLLMSampler, VLLMSettings
from align.policy.weights import Packed, pack
from align.policy.workers import RolloutWorkers

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="needs vLLM: `make test-vllm`"
    ),
    pytest.mark.timeout(900),
]
SETTINGS = SamplingSettings(temperature=0.7, max_new_tokens=12, eos_id=2)
LORA = LoRAConfig(r=3, alpha=6).in_full
CLOSE = 1e-4
"""Nats by which vLLM's kernels may round otherwise than torch in fp32."""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def config_of(family: str) -> PretrainedConfig:
    """Two layers; vLLM's attention on CPUs has no heads smaller than 32."""
    rest: dict[str, Any] = {"vocab_size": 300, "initializer_range": 0.2, "hidden_size": 64}
    rest |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128}
    rest |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if family == "gpt2":  # stores weights the other way round, and ties its embeddings
        return GPT2Config(**rest)
    rest |= {"num_key_value_heads": 2, "intermediate_size": 96}
    if family == "qwen2":  # has biases
        return Qwen2Config(**rest, tie_word_embeddings=False)
    return LlamaConfig(**rest, tie_word_embeddings=True)


def made(family: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config_of(family))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # 0 in a new model
                torch.nn.init.normal_(parameter, std=0.2)
    model.eval()
    return model


def started(
    family: str, lora: AdapterConfig | None = None, shards: int = 1, sleeps: bool = False
) -> closing[RolloutWorkers]:
    vllm = VLLMSettings(16, 64, shards, sleeps)
    config = config_of(family)
    return closing(RolloutWorkers(1, 1.0, 2, config, lora, torch.float32, vllm=vllm))


@pytest.fixture(scope="module")
def llama_group(cluster: None) -> Iterator[RolloutWorkers]:
    """An engine that several tests share."""
    with started("llama") as group:
        yield group


def requests(count: int) -> list[SampleRequest]:
    return [
        SampleRequest([3 + (7 * row + i) % 290 for i in range(1 + row % 5)], (0, 0, row, 0))
        for row in range(count)
    ]


def gap(model: Any, asked: Sequence[SampleRequest], samples: Sequence[Sample]) -> float:
    """Nats by which sampler and trainer disagree on a token, at most."""
    ids = [one.response_ids for one in samples]
    batch = text_batch([request.prompt_ids for request in asked], ids, torch.device("cpu"))
    with torch.no_grad():
        expected_BT, _ = response_logprobs(model, batch, SETTINGS.temperature)
    return float((pad_rows([one.logprobs for one in samples]) - expected_BT).abs().max())


def shrink(model: torch.nn.Module) -> None:
    """An update of everything that trains."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.6)


def trained(model: torch.nn.Module) -> Packed:
    return pack((name, p) for name, p in model.named_parameters() if p.requires_grad)


def test_vllm_samples_what_the_trainer_holds_and_nothing_older(
    llama_group: RolloutWorkers,
) -> None:
    model, old, asked = made("llama"), made("llama"), requests(24)
    llama_group.sync(pack(model.named_parameters()), version=0)
    first = llama_group.sample(asked, SETTINGS, rows_per_unit=12)
    again = llama_group.sample(asked, SETTINGS, rows_per_unit=12)
    shrink(model)
    stale = llama_group.sample(asked, SETTINGS, rows_per_unit=12)
    llama_group.sync(pack(model.named_parameters()), version=1)
    new = llama_group.sample(asked, SETTINGS, rows_per_unit=12)
    assert gap(old, asked, first) < CLOSE
    assert [one.response_ids for one in first] == [one.response_ids for one in again]
    assert gap(model, asked, stale) > 0.1  # what a trainer's check sees if a sync is left out
    # The prompts are the same, so keys and values cached for the old weights would show here.
    assert gap(model, asked, new) < CLOSE
    assert {one.policy_version for one in stale} == {0}
    assert {one.policy_version for one in new} == {1}
    for one in [*first, *new]:
        assert one.finished == (one.response_ids[-1] == SETTINGS.eos_id)
        assert SETTINGS.eos_id not in one.response_ids[:-1]
        assert one.finished or len(one.response_ids) == SETTINGS.max_new_tokens
    assert any(one.finished for one in [*first, *new])
    assert not all(one.finished for one in [*first, *new])


def test_vllm_draws_from_the_distribution_of_the_model(llama_group: RolloutWorkers) -> None:
    model, draws = made("llama"), 4000
    asked = [SampleRequest([5, 6, 7], (0, 0, row, 0)) for row in range(draws)]
    llama_group.sync(pack(model.named_parameters()), version=0)
    one_token = SamplingSettings(SETTINGS.temperature, 1, SETTINGS.eos_id)
    drawn = llama_group.sample(asked, one_token, rows_per_unit=2000)
    counts = Counter(one.response_ids[0] for one in drawn)
    with torch.no_grad():
        logits_V = model(torch.tensor([[5, 6, 7]])).logits[0, -1]
    chances = (logits_V / SETTINGS.temperature).softmax(-1).tolist()
    common = [token for token, chance in enumerate(chances) if chance * draws > 5]
    observed = [*(counts[token] for token in common)]
    expected = [*(chances[token] * draws for token in common)]
    observed.append(draws - sum(observed))
    expected.append(draws - sum(expected))
    square = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = len(common)
    # Wilson and Hilferty's normal approximation of the chi-square distribution.
    z = ((square / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))
    assert abs(z) < 4, (square, freedom)


def test_held_out_prompts_may_be_answered_otherwise(llama_group: RolloutWorkers) -> None:
    model, asked = made("llama"), requests(12)
    llama_group.sync(pack(model.named_parameters()), version=0)
    likeliest = replace(SETTINGS, top_k=1, min_new_tokens=SETTINGS.max_new_tokens)
    drawn = llama_group.sample(asked, likeliest, rows_per_unit=12)
    for request, one in zip(asked, drawn, strict=True):
        with torch.no_grad():
            logits_LV = model(torch.tensor([request.prompt_ids + one.response_ids])).logits[0]
        logits_LV[:, SETTINGS.eos_id] = -math.inf
        start = len(request.prompt_ids) - 1
        assert one.response_ids == logits_LV[start:-1].argmax(-1).tolist()
        assert one.finish_reason == "length"


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_adapters_alone_travel_and_arrive_merged(family: str) -> None:
    model, asked = add_adapter(made(family), LORA, seed=5), requests(12)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # 0 before training
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    with started(family, LORA) as group:
        group.sync(pack(model.named_parameters()), version=0)
        gaps = [gap(model, asked, group.sample(asked, SETTINGS, rows_per_unit=12))]
        shrink(model)
        assert all("lora_" in name for name in trained(model))
        group.sync(trained(model), version=1)
        gaps.append(gap(model, asked, group.sample(asked, SETTINGS, rows_per_unit=12)))
        ray.kill(group._actors[0])  # what starts again needs the base and the newest adapters
        after = group.sample(asked, SETTINGS, rows_per_unit=12)
    assert max(*gaps, gap(model, asked, after)) < CLOSE
    assert {one.policy_version for one in after} == {1}


@pytest.mark.parametrize(("family", "lora"), [("llama", None), ("qwen2", LORA)])
def test_every_shard_gets_the_new_weights(family: str, lora: AdapterConfig | None) -> None:
    model: Any = add_adapter(made(family), lora, seed=5) if lora else made(family)
    asked, gaps = requests(12), []
    with started(family, lora, shards=2) as group:
        for version in (0, 1):
            sent = trained(model) if version else pack(model.named_parameters())
            group.sync(sent, version)
            gaps.append(gap(model, asked, group.sample(asked, SETTINGS, rows_per_unit=12)))
            shrink(model)
        shards = processes_of_shards()
    assert max(gaps) < CLOSE
    assert len(shards) >= 2
    _, alive = psutil.wait_procs(shards, timeout=60)
    assert not alive  # a worker that ends takes its shards along


def processes_of_shards() -> list[psutil.Process]:
    """What the worker started."""
    below = psutil.Process().children(recursive=True)
    workers = [one for one in below if "VLLMSampler" in " ".join(one.cmdline())]
    return [child for worker in workers for child in worker.children(recursive=True)]


class Deaf(VLLMSampler):
    """A vLLM that takes no weights after the first, and says nothing."""

    def load(self, packed: Packed, version: int) -> str:
        if version:
            self._llm.collective_rpc(ignore_weights)
        return super().load(packed, version)


def ignore_weights(worker: Any) -> None:
    worker.model_runner.reload_weights = lambda weights_iterator: None


class Forgetful(VLLMSampler):
    """A vLLM whose output layer goes on with the weights that its kernel packed before."""

    def load(self, packed: Packed, version: int) -> str:
        if version:
            self._llm.collective_rpc(forget_the_output_layer)
        return super().load(packed, version)


def forget_the_output_layer(worker: Any) -> None:
    layer = worker.model_runner.get_model().lm_head
    layer.quant_method.process_weights_after_loading = lambda layer: None


@pytest.mark.parametrize("sampler", [Deaf, Forgetful])
def test_weights_that_did_not_arrive_stop_the_run(
    sampler: type[VLLMSampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "VLLMSampler", sampler)
    model = made("llama")
    with started("llama") as group:
        group.sync(pack(model.named_parameters()), version=0)
        shrink(model)
        with pytest.raises(RuntimeError, match=r"holds weights of fingerprint \w+ instead of"):
            group.sync(pack(model.named_parameters()), version=1)


def test_sleeping_is_refused_where_vllm_cannot() -> None:
    with started("llama", sleeps=True) as group, pytest.raises(UserError) as caught:
        group.sync(pack(made("llama").named_parameters()), version=0)
    said = str(caught.value)
    assert "vLLM does not start" in said and "Sleep mode is not supported" in said


def test_a_model_that_vllm_cannot_run_is_one_line() -> None:
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=128,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    group = RolloutWorkers(1, 1.0, 2, config, None, torch.float32, vllm=VLLMSettings(16, 64))
    with closing(group), pytest.raises(UserError) as caught:
        group.sync(pack(model.named_parameters()), version=0)
    assert "\n" not in str(caught.value) and "head_dim=8" in str(caught.value)
