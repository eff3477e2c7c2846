"""Rollout workers on a real Ray: their number changes nothing, and weights arrive or it says so."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.errors import UserError
from align.policy import bundles, workers
from align.policy.adapters import add_adapter
from align.policy.config import AdapterConfig, LoRAConfig
from align.policy.logprobs import response_logprobs, text_batch
from align.policy.model import cast_parameters
from align.policy.rollout import Sample, SampleRequest, pad_rows
from align.policy.sample import SamplingSettings, sample
from align.policy.sampler import Sampler
from align.policy.weights import Packed, pack
from align.policy.workers import RolloutWorkers

TinyCausal = Callable[[str], PreTrainedModel]

SETTINGS = SamplingSettings(temperature=0.7, max_new_tokens=6, eos_id=2)
LORA = LoRAConfig(r=2, alpha=4).in_full


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


def started(
    count: int,
    model: PreTrainedModel,
    lora: AdapterConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> RolloutWorkers:
    return RolloutWorkers(count, 0.25, 1, model.config, lora, dtype)


def requests(count: int) -> list[SampleRequest]:
    return [
        SampleRequest([3 + (7 * row + i) % 290 for i in range(1 + row % 5)], (0, 0, row, 0))
        for row in range(count)
    ]


def agrees_with_the_trainer(
    model: PreTrainedModel | PeftModel,
    asked: Sequence[SampleRequest],
    samples: Sequence[Sample],
    tolerance: float,
) -> bool:
    ids = [one.response_ids for one in samples]
    batch = text_batch([request.prompt_ids for request in asked], ids, torch.device("cpu"))
    with torch.no_grad():
        expected, _ = response_logprobs(model, batch, SETTINGS.temperature)
    drawn = pad_rows([one.logprobs for one in samples])
    return torch.allclose(drawn, expected, atol=tolerance)


def perturb_adapters(model: PeftModel) -> None:
    """Adapters as training leaves them: B is no longer 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)


def trainable(model: PeftModel) -> Packed:
    return pack((name, p) for name, p in model.named_parameters() if p.requires_grad)


def test_the_number_of_workers_changes_no_bit(tiny_causal: TinyCausal) -> None:
    model, asked = tiny_causal("llama"), requests(21)
    answers = []
    for count in (1, 2, 4):
        with started(count, model) as group:
            group.sync(pack(model.named_parameters()), version=3)
            answers.append(group.sample(asked, SETTINGS, rows_per_unit=4))
    assert answers[0] == answers[1] == answers[2]  # log-probabilities too, as exact floats
    assert {one.policy_version for one in answers[0]} == {3}
    assert agrees_with_the_trainer(model, asked, answers[0], tolerance=1e-5)


def test_new_weights_replace_the_old(tiny_causal: TinyCausal) -> None:
    model, asked = tiny_causal("gpt2"), requests(8)
    with started(2, model) as group:
        group.sync(pack(model.named_parameters()), version=0)
        before = group.sample(asked, SETTINGS, rows_per_unit=3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
        group.sync(pack(model.named_parameters()), version=1)
        after = group.sample(asked, SETTINGS, rows_per_unit=3)
    assert agrees_with_the_trainer(model, asked, after, tolerance=1e-5)
    assert not agrees_with_the_trainer(model, asked, before, tolerance=1e-3)
    assert {one.policy_version for one in after} == {1}


def test_adapters_alone_travel_once_the_base_is_there(tiny_causal: TinyCausal) -> None:
    model = add_adapter(tiny_causal("llama"), LORA, seed=5)
    asked = requests(8)
    with started(1, tiny_causal("llama"), LORA) as group:
        group.sync(pack(model.named_parameters()), version=0)
        perturb_adapters(model)
        adapters = trainable(model)
        assert adapters and all("lora_" in name for name in adapters)
        group.sync(adapters, version=1)
        samples = group.sample(asked, SETTINGS, rows_per_unit=4)
    assert agrees_with_the_trainer(model, asked, samples, tolerance=1e-5)


def test_in_bf16_everything_travels_in_bf16_also_adapters(tiny_causal: TinyCausal) -> None:
    # DeepSpeed casts the whole trained model, adapters included.
    model = add_adapter(tiny_causal("llama"), LORA, seed=5)
    cast_parameters(model, torch.bfloat16)
    asked = requests(8)
    with started(1, tiny_causal("llama"), LORA, torch.bfloat16) as group:
        group.sync(pack(model.named_parameters()), version=0)
        samples = group.sample(asked, SETTINGS, rows_per_unit=4)
    assert agrees_with_the_trainer(model, asked, samples, tolerance=0.2)


class Deaf(Sampler):
    """A worker that keeps its first weights."""

    def load(self, packed: Packed, version: int) -> str:
        if self.version >= 0:
            packed = {name: array * 0 for name, array in packed.items()}
        return super().load(packed, version)


def test_a_worker_with_other_weights_is_caught(
    tiny_causal: TinyCausal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "Sampler", Deaf)
    model = tiny_causal("llama")
    packed = pack(model.named_parameters())
    with started(1, model) as group:
        group.sync(packed, version=0)
        with pytest.raises(
            RuntimeError, match=r"worker 0 on node [\d.]+ holds weights .* after sync 1"
        ):
            group.sync(packed, version=1)


class Mortal(Sampler):
    """A worker that dies in the middle of a unit, so often as there are files to take away."""

    lives: Path

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[Sample]:
        for life in sorted(self.lives.iterdir()):
            with suppress(FileNotFoundError):  # another worker took this one at the same moment
                life.unlink()
                os._exit(1)
        return super().sample(requests, settings)


def mortal(folder: Path, deaths: int) -> type[Sampler]:
    folder.mkdir()
    for number in range(deaths):
        (folder / str(number)).touch()
    return type("Mortal", (Mortal,), {"lives": folder})


def test_a_worker_that_dies_costs_its_unit_and_changes_no_bit(
    tiny_causal: TinyCausal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, asked = add_adapter(tiny_causal("llama"), LORA, seed=5), requests(21)
    answers = []
    for deaths in (0, 2):
        monkeypatch.setattr(workers, "Sampler", mortal(tmp_path / str(deaths), deaths))
        perturb_adapters(model)
        with started(2, tiny_causal("llama"), LORA) as group:
            group.sync(pack(model.named_parameters()), version=0)
            group.sync(trainable(model), version=1)  # what starts again needs both
            answers.append(group.sample(asked, SETTINGS, rows_per_unit=4))
        assert not list((tmp_path / str(deaths)).iterdir())
    assert answers[0] == answers[1]
    assert {one.policy_version for one in answers[1]} == {1}


def test_workers_that_keep_dying_stop_the_run(
    tiny_causal: TinyCausal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers, "Sampler", mortal(tmp_path / "lives", 9))
    model = tiny_causal("llama")
    with started(1, model) as group:
        group.sync(pack(model.named_parameters()), version=0)
        with pytest.raises(
            RuntimeError,
            match=r"lost 4 times since the last sync; the last: .* 0 on node [\d.]+, with unit 0",
        ):
            group.sample(requests(4), SETTINGS, rows_per_unit=4)


def test_when_all_workers_are_killed_the_answers_are_the_same(tiny_causal: TinyCausal) -> None:
    model, asked = tiny_causal("llama"), requests(9)
    with started(2, model) as group:
        group.sync(pack(model.named_parameters()), version=0)
        before = group.sample(asked, SETTINGS, rows_per_unit=4)
        for actor in group._actors:
            ray.kill(actor)
        assert group.sample(asked, SETTINGS, rows_per_unit=4) == before
        for actor in group._actors:
            ray.kill(actor)
        group.sync(pack(model.named_parameters()), version=1)
        after = group.sample(asked, SETTINGS, rows_per_unit=4)
    assert after == [replace(one, policy_version=1) for one in before]


class Hanging(Sampler):
    """A worker that falls asleep over a unit, once for all workers."""

    flag: Path

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[Sample]:
        with suppress(FileNotFoundError):
            self.flag.unlink()
            time.sleep(3600)
        return super().sample(requests, settings)


def test_a_worker_that_hangs_is_replaced_and_its_unit_drawn_by_another(
    tiny_causal: TinyCausal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    flag = tmp_path / "hang"
    monkeypatch.setattr(workers, "Sampler", type("Hanging", (Hanging,), {"flag": flag}))
    model, asked, answers = tiny_causal("llama"), requests(9), []
    with RolloutWorkers(2, 0.25, 1, model.config, None, torch.float32, unit_seconds=15) as group:
        group.sync(pack(model.named_parameters()), version=0)
        answers.append(group.sample(asked, SETTINGS, rows_per_unit=4))
        flag.touch()
        answers.append(group.sample(asked, SETTINGS, rows_per_unit=4))
        assert not flag.exists()
        # The next weights reach the replacement too, whether or not it is there by now.
        group.sync(pack(model.named_parameters()), version=0)
        answers.append(group.sample(asked, SETTINGS, rows_per_unit=4))
    assert answers[0] == answers[1] == answers[2]
    (warning,) = caplog.messages
    assert re.fullmatch(
        r"rollout worker [01] on node [\d.]+, with unit [0-2]: it did not answer in time; "
        "it starts again",
        warning,
    )


class Broken(Sampler):
    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[Sample]:
        raise ArithmeticError("one over nothing")


def test_an_error_inside_a_worker_is_told_with_worker_node_and_unit(
    tiny_causal: TinyCausal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "Sampler", Broken)
    model = tiny_causal("llama")
    with started(1, model) as group:
        group.sync(pack(model.named_parameters()), version=0)
        with pytest.raises(RuntimeError) as caught:
            group.sample(requests(4), SETTINGS, rows_per_unit=4)
        with pytest.raises(UserError, match="prompt 0 has 127 tokens"):
            group.sample([SampleRequest([5] * 127, (0,))], SETTINGS, rows_per_unit=4)
    assert re.fullmatch(
        r"rollout worker 0 on node [\d.]+, with unit 0: ArithmeticError\('one over nothing'\)",
        str(caught.value),
    )


def test_stop_texts_end_answers_in_workers_too(
    tiny_causal: TinyCausal, tokenizer: PreTrainedTokenizerBase
) -> None:
    model, asked = tiny_causal("llama"), requests(8)
    (first, *_) = sample(model, asked, SETTINGS)
    settings = replace(SETTINGS, stop=(str(tokenizer.decode(first.response_ids[2:4])),))
    with RolloutWorkers(
        1, 0.25, 1, model.config, None, torch.float32, tokenizer=tokenizer
    ) as group:
        group.sync(pack(model.named_parameters()), version=0)
        drawn = group.sample(asked, settings, rows_per_unit=8)
    assert drawn[0].finish_reason == "stop"
    assert drawn[0].response_ids == first.response_ids[: len(drawn[0].response_ids)]


def test_no_room_is_one_line_and_later_a_group_may_take_every_cpu(
    tiny_causal: TinyCausal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "PLACEMENT_SECONDS", 3)
    model = tiny_causal("llama")
    with pytest.raises(UserError) as caught:
        RolloutWorkers(100, 1.0, 1, model.config, None, torch.float32)
    assert "\n" not in str(caught.value)
    assert re.search(r"rollout\.workers: 100 with 1 CPU each; .* 2 CPUs free", str(caught.value))
    # Neither the failed attempt nor the closed groups of the tests before hold any.
    with RolloutWorkers(1, 2.0, 1, model.config, None, torch.float32) as group:
        group.sync(pack(model.named_parameters()), version=0)
