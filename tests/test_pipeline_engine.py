"""DeepSpeed in one process against plain torch."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from align.data.errors import UserError
from align.pipeline.config import TrainConfig
from align.pipeline.engine import ADAM_EPSILON, Engine, frozen, full_state, schedule_factor
from align.policy.adapters import add_adapter
from align.policy.config import AdapterConfig, LoRAConfig
from align.policy.logprobs import TextBatch, response_logprobs, text_batch
from align.policy.model import TokenScores
from align.policy.rollout import SampleRequest, pad_rows
from align.policy.sample import SamplingSettings
from align.policy.sampler import Sampler
from align.policy.weights import checksum, pack

TinyCausal = Callable[[str], PreTrainedModel]

STEPS, RATE = 5, 1e-2
WHOLE = "AVAILABLE"  # as DeepSpeed says
CPU = torch.device("cpu")


pytestmark = [
    pytest.mark.usefixtures("one_rank"),
    # DeepSpeed uses parts of torch that are.
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]


def settings(**changes: Any) -> TrainConfig:
    """Clipping at a norm that every step exceeds, a warm-up and weight decay."""
    common = {"max_grad_norm": 0.5, "warmup": 0.3, "weight_decay": 0.1}
    return TrainConfig(**(common | changes))


def batch(step: int, part: int) -> TextBatch:
    """Half of a step's texts; the halves differ in their number of tokens."""
    generator = torch.Generator().manual_seed(10 * step + part)
    ids = torch.randint(3, 300, (3, 9), generator=generator).tolist()
    return text_batch([row[:4] for row in ids], [row[4 : 7 + part] for row in ids], CPU)


def losses_of_a_step(model: Any, step: int) -> Iterator[Tensor]:
    """Mean negative log-likelihood over a step, in two micro-batches."""
    batches = [batch(step, part) for part in range(2)]
    tokens = sum(int(one.response_lengths_B.sum()) for one in batches)
    for one in batches:
        yield -response_logprobs(model, one, 1.0)[0].sum() / tokens


def train(engine: Engine, steps: int = STEPS) -> list[tuple[float, float, float]]:
    """Loss, learning rate and gradient norm of every step."""
    history = []
    for step in range(steps):
        total = 0.0
        for loss in losses_of_a_step(engine, step):
            engine.backward(loss)
            total += float(loss.detach())
        report = engine.step(step)
        history.append((total, report["lr"], report["grad_norm"]))
    return history


def train_plainly(model: nn.Module, config: TrainConfig) -> list[tuple[float, float, float]]:
    """The same with torch alone."""
    weights = [p for p in model.parameters() if p.requires_grad]
    decay = config.weight_decay
    optimizer = torch.optim.AdamW(weights, lr=RATE, eps=ADAM_EPSILON, weight_decay=decay)
    history = []
    for step in range(STEPS):
        rate = RATE * schedule_factor(step, STEPS, config)
        optimizer.param_groups[0]["lr"] = rate
        total = 0.0
        for loss in losses_of_a_step(model, step):
            loss.backward()
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        history.append((total, rate, float(norm)))
    return history


def agree(
    found: list[tuple[float, float, float]], expected: list[tuple[float, float, float]]
) -> bool:
    flat = list(itertools.chain.from_iterable(expected))
    return list(itertools.chain.from_iterable(found)) == pytest.approx(flat, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_stage": 0},
        {"zero_stage": 1},
        {"zero_stage": 2},
        {"zero_stage": 3},
        {"zero_stage": 0, "gradient_checkpointing": True},
        {"zero_stage": 3, "gradient_checkpointing": True},
        {"zero_stage": 1, "offload": "optimizer"},
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "all"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_an_engine_trains_as_plain_torch_does(
    tiny_causal: TinyCausal, changes: dict[str, Any]
) -> None:
    plain = tiny_causal("llama")
    expected = train_plainly(plain, settings())
    assert all(norm > 0.5 for _, _, norm in expected)
    model = tiny_causal("llama")
    engine = Engine(model, RATE, STEPS, settings(**changes))
    assert agree(train(engine), expected)
    weights = dict(plain.named_parameters())
    state = full_state(model)
    assert set(weights) <= set(state)
    for name, weight in weights.items():
        assert torch.allclose(state[name], weight, atol=1e-4), name


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_two_engines_side_by_side_do_not_disturb_each_other(
    tiny_causal: TinyCausal, zero_stage: int
) -> None:
    config = settings(zero_stage=zero_stage)
    alone = train(Engine(tiny_causal("gpt2"), RATE, STEPS, config), steps=3)
    one = Engine(tiny_causal("gpt2"), RATE, STEPS, config)
    other = Engine(tiny_causal("qwen2"), RATE, STEPS, config)
    together = []
    for step in range(3):
        total = 0.0
        for mine, theirs in zip(
            losses_of_a_step(one, step), losses_of_a_step(other, step), strict=True
        ):
            one.backward(mine)
            other.backward(theirs)
            total += float(mine.detach())
        report = one.step(step)
        other.step(step)
        together.append((total, report["lr"], report["grad_norm"]))
    assert agree(together, alone)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_bf16_learns_what_fp32_learns(tiny_causal: TinyCausal, zero_stage: int) -> None:
    config = settings(zero_stage=zero_stage, precision="bf16", warmup=0)
    expected = train_plainly(tiny_causal("llama"), settings(warmup=0))
    model = tiny_causal("llama")
    history = train(Engine(model, RATE, STEPS, config))
    for (loss, _, norm), (exact_loss, _, exact_norm) in zip(history, expected, strict=True):
        assert loss == pytest.approx(exact_loss, rel=0.05)
        assert norm == pytest.approx(exact_norm, rel=0.1)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    # Rounded rotary frequencies would be wrong by a radian after a few hundred positions.
    assert {b.dtype for b in model.buffers() if b.is_floating_point()} == {torch.float32}


def test_fp16_without_a_gpu_is_one_line(
    tiny_causal: TinyCausal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"train\.precision: fp16 needs a GPU") as caught:
        Engine(tiny_causal("llama"), RATE, STEPS, TrainConfig(precision="fp16"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_checkpointed_activations_are_computed_again(tiny_causal: TinyCausal, family: str) -> None:
    model = tiny_causal(family)
    engine = Engine(model, RATE, STEPS, settings(gradient_checkpointing=True))
    calls: list[int] = []
    ends = (".0.ln_1", ".0.input_layernorm")
    norm = next(module for name, module in model.named_modules() if name.endswith(ends))
    norm.register_forward_hook(lambda *_: calls.append(1))
    loss = next(losses_of_a_step(engine, 0))
    assert len(calls) == 1
    engine.backward(loss)
    assert len(calls) == 2


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_adapters_train_and_their_base_does_not(tiny_causal: TinyCausal, zero_stage: int) -> None:
    base = tiny_causal("llama")
    with torch.no_grad():
        expected, _ = response_logprobs(base, batch(9, 0), 1.0)
        first_loss = float(sum(losses_of_a_step(base, 0)))
    model = add_adapter(tiny_causal("llama"), LoRAConfig(r=2, alpha=4).in_full, seed=0)
    engine = Engine(model, RATE, STEPS, settings(zero_stage=zero_stage))
    first = train(engine, steps=3)[0]
    with torch.no_grad():
        adapted, _ = response_logprobs(engine, batch(9, 0), 1.0)
        with model.disable_adapter():
            reference, _ = response_logprobs(engine, batch(9, 0), 1.0)
    assert torch.allclose(reference, expected, atol=1e-5)
    assert not torch.allclose(adapted, expected, atol=1e-3)
    assert first[0] == pytest.approx(first_loss, abs=1e-5)
    names = [name for name, _ in engine.parameters(trainable_only=True)]
    assert names and all("lora_" in name for name in names)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_parameters_and_full_state_are_whole(tiny_causal: TinyCausal, zero_stage: int) -> None:
    plain = dict(tiny_causal("gpt2").named_parameters())
    model = tiny_causal("gpt2")
    engine = Engine(model, RATE, STEPS, settings(zero_stage=zero_stage))
    given = {name: p.clone() for name, p in engine.parameters(trainable_only=False)}
    state = full_state(model)
    for found in (given, state):
        assert set(found) == set(plain)
        for name, weight in plain.items():
            assert torch.equal(found[name], weight), name


def test_weights_on_their_way_to_the_workers_are_never_gathered_all_at_once() -> None:
    # DeepSpeed leaves parameters of less than 100,000 numbers whole.
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=512,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    engine = Engine(model, RATE, STEPS, settings(zero_stage=3))
    weights: dict[str, Any] = dict(engine.module.named_parameters())
    large = {name: weight for name, weight in weights.items() if not weight.ds_persist}
    assert len(large) > 10
    for name, _ in engine.parameters(trainable_only=False):
        whole = {other for other, weight in large.items() if weight.ds_status.name == WHOLE}
        assert whole == {name} & large.keys()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_frozen_model_answers_as_before(
    tiny_causal: TinyCausal, zero_stage: int, precision: str
) -> None:
    config = settings(zero_stage=zero_stage, precision=precision)
    with torch.no_grad():
        expected, _ = response_logprobs(tiny_causal("llama"), batch(0, 0), 0.7)
        model = tiny_causal("llama")
        answering = frozen(model, config, CPU)
        found, _ = response_logprobs(answering, batch(0, 0), 0.7)
    assert torch.allclose(found, expected, atol=1e-5 if precision == "fp32" else 0.2)
    assert not any(p.requires_grad for p in model.parameters())
    assert {b.dtype for b in model.buffers() if b.is_floating_point()} == {torch.float32}


def test_a_frozen_model_is_offloaded_with_the_others(tiny_causal: TinyCausal) -> None:
    config = settings(zero_stage=3, offload="all")
    with torch.no_grad():
        expected, _ = response_logprobs(tiny_causal("llama"), batch(0, 0), 0.7)
        answering = frozen(tiny_causal("llama"), config, CPU)
        found, _ = response_logprobs(answering, batch(0, 0), 0.7)
    assert answering.zero_offload_param().device == "cpu"
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_policy_and_its_frozen_copy_agree_to_the_last_bit(
    tiny_causal: TinyCausal, zero_stage: int, precision: str
) -> None:
    # So the divergence from the reference begins at 0.
    config = settings(zero_stage=zero_stage, precision=precision)
    engine = Engine(tiny_causal("qwen2"), RATE, STEPS, config)
    reference = frozen(tiny_causal("qwen2"), config, CPU)
    with torch.no_grad():
        policy_BT, _ = response_logprobs(engine, batch(0, 0), 0.7)
        reference_BT, _ = response_logprobs(reference, batch(0, 0), 0.7)
    assert torch.equal(policy_BT, reference_BT)


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2, alpha=4).in_full], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_sampler_draws_from_the_policy_that_an_engine_trained(
    tiny_causal: TinyCausal, zero_stage: int, precision: str, lora: AdapterConfig | None
) -> None:
    config = settings(zero_stage=zero_stage, precision=precision, warmup=0)
    plain = tiny_causal("llama")
    engine = Engine(add_adapter(plain, lora, seed=3) if lora else plain, RATE, STEPS, config)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    sampler = Sampler(tiny_causal("llama").config, lora, dtype, threads=1)
    sampler.load(pack(engine.parameters(trainable_only=False)), version=0)
    train(engine, steps=2)
    packed = pack(engine.parameters(trainable_only=True))
    assert sampler.load(packed, version=1) == checksum(packed)
    requests = [SampleRequest([5, 6, 7 + row], (0, row)) for row in range(8)]
    samples = sampler.sample(requests, SamplingSettings(0.7, 6, eos_id=2))
    asked = text_batch([r.prompt_ids for r in requests], [s.response_ids for s in samples], CPU)
    with torch.no_grad():
        expected, _ = response_logprobs(engine, asked, 0.7)
    difference = (pad_rows([s.logprobs for s in samples]) - expected).abs()
    assert float(difference.max()) < (1e-5 if precision == "fp32" else 0.3)
    assert float(difference.mean()) < (1e-6 if precision == "fp32" else 0.05)


def test_a_critic_trains_inside_its_wrapper(tiny_scalar: TinyCausal) -> None:
    model = TokenScores(tiny_scalar("llama"))
    engine = Engine(model, RATE, STEPS, settings(zero_stage=3, warmup=0))
    ids = batch(0, 0).ids_RL
    losses = []
    for step in range(STEPS):
        loss = (engine(ids) - 1).square().mean()
        engine.backward(loss)
        engine.step(step)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_learning_rate_by_hand() -> None:
    def factors(**changes: Any) -> list[float]:
        return [schedule_factor(step, 8, TrainConfig(**changes)) for step in range(8)]

    assert factors(schedule="constant") == [1] * 8
    assert factors(schedule="linear") == [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert factors(schedule="linear", warmup=0.5) == pytest.approx(
        [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 3 / 4, 2 / 4, 1 / 4]
    )
    cosine = factors(schedule="cosine")
    assert cosine[0] == 1 and cosine[4] == pytest.approx(0.5)
    assert cosine[2] == pytest.approx(0.853553, abs=1e-6)
    assert factors(schedule="constant", warmup=0.2)[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert schedule_factor(0, 1, TrainConfig()) == 1
