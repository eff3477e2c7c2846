"""The decode loop against a loop that reads the whole text again for every token."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.errors import UserError
from align.policy.logprobs import response_logprobs, text_batch
from align.policy.rollout import Sample, SampleRequest, pad_rows, uniforms
from align.policy.sample import SamplingSettings, sample

TinyCausal = Callable[[str], PreTrainedModel]

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = ["llama", "gpt2", "qwen2", "gpt_neo"]
CPU = torch.device("cpu")
EOS = 2
SETTINGS = SamplingSettings(temperature=0.7, max_new_tokens=12, eos_id=EOS)
NEVER = 10**6  # an EOS that no model draws
LARGEST_LOGIT = 30  # of these tiny models with large weights; rounding grows with it


def requests(count: int, seed: int = 0) -> list[SampleRequest]:
    """Prompts of 1 to 9 tokens."""
    generator = np.random.default_rng(seed)
    return [
        SampleRequest(generator.integers(3, 300, 1 + row % 9).tolist(), (seed, 0, row, 0))
        for row in range(count)
    ]


def eager_to_end(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with EOS about as likely as all other tokens together."""
    head = model.get_output_embeddings()
    embed = model.get_input_embeddings()
    assert isinstance(head, torch.nn.Linear) and isinstance(embed, torch.nn.Embedding)
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with torch.no_grad():
        head.bias[EOS] = 4.0
    return model


def ids_of(samples: Sequence[Sample]) -> list[list[int]]:
    return [one.response_ids for one in samples]


@torch.no_grad()
def slow_sample(
    model: PreTrainedModel, request: SampleRequest, settings: SamplingSettings
) -> list[int]:
    """One answer, without a cache: walk along the probabilities until they pass the noise."""
    ids: list[int] = []
    for noise in uniforms(request.noise_key, settings.max_new_tokens):
        logits = model(input_ids=torch.tensor([request.prompt_ids + ids])).logits[0, -1].double()
        token, passed = -1, 0.0
        probabilities = (logits / settings.temperature).softmax(-1).tolist()
        while passed <= noise:
            token += 1
            passed += probabilities[token]
        ids.append(token)
        if token == settings.eos_id:
            break
    return ids


@torch.no_grad()
def slow_argmax(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    """The likeliest token, again and again."""
    ids: list[int] = []
    for _ in range(count):
        ids.append(int(model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_answers_equals_a_loop_without_cache_or_padding(
    tiny_causal: TinyCausal, family: str
) -> None:
    model = eager_to_end(tiny_causal(family))
    wanted = requests(6)
    found = sample(model, wanted, SETTINGS)
    assert ids_of(found) == [slow_sample(model, request, SETTINGS) for request in wanted]
    assert len(set(map(len, ids_of(found)))) > 2  # rows left the batch at different steps


@pytest.mark.parametrize("family", FAMILIES)
def test_near_temperature_zero_the_likeliest_token_is_drawn(
    tiny_causal: TinyCausal, family: str
) -> None:
    model, cold = tiny_causal(family), SamplingSettings(1e-6, 8, NEVER)
    wanted = requests(4)
    assert ids_of(sample(model, wanted, cold)) == [
        slow_argmax(model, request.prompt_ids, 8) for request in wanted
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_equal_those_of_the_trainer(tiny_causal: TinyCausal, family: str) -> None:
    model = eager_to_end(tiny_causal(family))
    wanted = requests(8)
    found = sample(model, wanted, SETTINGS)
    batch = text_batch([request.prompt_ids for request in wanted], ids_of(found), CPU)
    expected, _ = response_logprobs(model, batch, SETTINGS.temperature)
    assert torch.allclose(pad_rows([one.logprobs for one in found]), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_of_4_to_16_rows_give_the_same_answers(
    tiny_causal: TinyCausal, family: str
) -> None:
    model, wanted = eager_to_end(tiny_causal(family)), requests(16)
    together = sample(model, wanted, SETTINGS)
    for rows in (4, 5, 8, 11):
        apart = sample(model, wanted[:rows], SETTINGS)
        assert ids_of(apart) == ids_of(together[:rows])
        for one, other in zip(apart, together, strict=False):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-6 * LARGEST_LOGIT)


def prompts_read(model: PreTrainedModel, wanted: Sequence[SampleRequest]) -> tuple[int, int]:
    """Rows of the pass that reads the prompts, and of the next one."""
    rows = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, given, __: rows.append(len(given[0]))
    )
    sample(model, wanted, SamplingSettings(1.0, 2, NEVER))
    hook.remove()
    first, second = rows
    return first, second


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_to_one_prompt_share_the_pass_that_reads_it(
    tiny_causal: TinyCausal, family: str
) -> None:
    model = eager_to_end(tiny_causal(family))
    each = requests(4)
    wanted = [
        SampleRequest(one.prompt_ids, (0, 0, i, n)) for i, one in enumerate(each) for n in range(4)
    ]
    assert prompts_read(model, wanted) == (4, 16)
    shared = sample(model, wanted, SETTINGS)
    for index in range(4):  # no prompt twice in a batch: nothing to share
        alone = sample(model, wanted[index::4], SETTINGS)
        assert ids_of(alone) == ids_of(shared[index::4])
        for one, other in zip(alone, shared[index::4], strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-6 * LARGEST_LOGIT)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_the_rows_beside_it(
    tiny_causal: TinyCausal, family: str
) -> None:
    model = eager_to_end(tiny_causal(family))
    wanted = requests(16)
    together = ids_of(sample(model, wanted, SETTINGS))
    assert ids_of(sample(model, wanted[:4], SETTINGS)) == together[:4]
    assert ids_of(sample(model, wanted[9:10], SETTINGS)) == together[9:10]
    assert ids_of(sample(model, wanted[::-1], SETTINGS)) == together[::-1]


def test_an_answer_ends_with_eos_or_is_cut(tiny_causal: TinyCausal) -> None:
    found = sample(eager_to_end(tiny_causal("llama")), requests(32), SETTINGS)
    assert {one.finished for one in found} == {True, False}
    for one in found:
        assert len(one.logprobs) == len(one.response_ids) <= SETTINGS.max_new_tokens
        assert one.finished == (one.response_ids[-1] == EOS)
        assert one.finished or len(one.response_ids) == SETTINGS.max_new_tokens
        assert EOS not in one.response_ids[:-1]


def test_an_answer_may_end_with_its_last_allowed_token(tiny_causal: TinyCausal) -> None:
    model = eager_to_end(tiny_causal("llama"))
    one_token = SamplingSettings(temperature=0.7, max_new_tokens=1, eos_id=EOS)
    found = sample(model, requests(32), one_token)
    assert {(tuple(s.response_ids) == (EOS,), s.finished) for s in found} == {
        (True, True),
        (False, False),
    }


def test_finished_rows_are_not_decoded_on(tiny_causal: TinyCausal) -> None:
    model, passed = eager_to_end(tiny_causal("llama")), []
    model.get_input_embeddings().register_forward_hook(
        lambda _, given, __: passed.append(len(given[0]))
    )
    lengths = [len(one.response_ids) for one in sample(model, requests(32), SETTINGS)]
    # A row takes part in the pass before each of its tokens, the first one's being the prompt's.
    assert passed == [sum(length > step for length in lengths) for step in range(max(lengths))]


def test_a_model_that_never_ends_is_cut_at_the_longest_length(tiny_causal: TinyCausal) -> None:
    found = sample(tiny_causal("llama"), requests(5), SamplingSettings(1.0, 9, NEVER))
    assert {one.finish_reason for one in found} == {"length"}
    assert [len(one.response_ids) for one in found] == [9] * 5


def test_no_eos_before_the_least_length(tiny_causal: TinyCausal) -> None:
    model = eager_to_end(tiny_causal("llama"))
    wanted = requests(16)
    found = sample(model, wanted, replace(SETTINGS, min_new_tokens=5))
    assert min(len(one.response_ids) for one in found) == 5
    assert min(len(one.response_ids) for one in sample(model, wanted, SETTINGS)) < 5


def test_an_answer_ends_with_a_stop_text_across_tokens(
    tiny_causal: TinyCausal, tokenizer: PreTrainedTokenizerBase
) -> None:
    model, wanted = tiny_causal("llama"), requests(8)
    whole = sample(model, wanted, SamplingSettings(1.0, 20, NEVER))
    text = str(tokenizer.decode(whole[3].response_ids[:9]))
    settings = SamplingSettings(1.0, 20, NEVER, stop=("never said", text[-3:]))
    found = sample(model, wanted, settings, tokenizer=tokenizer)
    assert found[3].finish_reason == "stop" and found[3].finished
    for one, longer in zip(found, whole, strict=True):
        length = len(one.response_ids)
        assert one.response_ids == longer.response_ids[:length]
        said = [str(tokenizer.decode(longer.response_ids[:n])) for n in range(1, length + 1)]
        assert [text[-3:] in so_far for so_far in said[:-1]] == [False] * (length - 1)
        assert (text[-3:] in said[-1]) == (one.finish_reason == "stop")
    later = sample(
        model, wanted, replace(settings, min_new_tokens=15, eos_id=EOS), tokenizer=tokenizer
    )
    assert min(len(one.response_ids) for one in later) >= 15


def test_a_prompt_without_room_for_an_answer_is_one_line(tiny_causal: TinyCausal) -> None:
    wanted = [*requests(2), SampleRequest([5] * 120, (0, 0, 2, 0))]
    with pytest.raises(UserError) as caught:
        sample(tiny_causal("llama"), wanted, SETTINGS)
    assert str(caught.value) == (
        "prompt 2 has 120 tokens: with an answer of up to 12 it exceeds the model's context of "
        "128; shorten it, or ask for fewer tokens"
    )


def test_a_sample_names_the_weights_that_drew_it(tiny_causal: TinyCausal) -> None:
    assert sample(tiny_causal("gpt2"), requests(1), SETTINGS, 7)[0].policy_version == 7


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(1.0, 1, NEVER),
        SamplingSettings(1.5, 1, NEVER),
        SamplingSettings(1.5, 1, NEVER, top_p=0.8),
        SamplingSettings(1.5, 1, NEVER, top_k=40),
        SamplingSettings(2.0, 1, NEVER, top_k=100, top_p=0.9),
        SamplingSettings(1.5, 1, eos_id=5, min_new_tokens=2),
    ],
    ids=["plain", "temperature", "top_p", "top_k", "both", "min_new_tokens"],
)
def test_frequencies_follow_the_probabilities(
    tiny_causal: TinyCausal, settings: SamplingSettings
) -> None:
    model, count = tiny_causal("llama"), 4000
    drawn = sample(model, [SampleRequest([5, 6], (1, row)) for row in range(count)], settings)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].double()
    expected = count * np.array(slow_filter((logits / settings.temperature).tolist(), settings))
    counted = np.bincount([one.response_ids[0] for one in drawn], minlength=len(expected))
    assert counted[expected == 0].sum() == 0
    common = expected >= 5  # the usual condition for chi-square; the rest is one class
    observed = np.append(counted[common], counted[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    degrees = len(wanted) - 1
    chi_square = float(((observed - wanted) ** 2 / wanted).sum())
    assert degrees > 20
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations


def slow_filter(logits: list[float], settings: SamplingSettings) -> list[float]:
    """Probabilities of what may be drawn: the likeliest first, until one of the limits."""
    weights = [math.exp(one) for one in logits]
    if settings.min_new_tokens > 1:
        weights[settings.eos_id] = 0.0
    order = sorted(range(len(weights)), key=lambda token: -weights[token])[: settings.top_k]
    mass = sum(weights[token] for token in order)
    taken, kept = 0.0, []
    for token in order:
        if settings.top_p is None or taken < settings.top_p * mass:
            kept.append(token)
        taken += weights[token]
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(weights))]


def test_noise_depends_on_its_key_alone() -> None:
    again = [uniforms((1, 2, 3, 0), 5).tolist() for _ in range(2)]
    assert again[0] == again[1]
    # A longer answer goes on where a shorter one stopped.
    assert uniforms((1, 2, 3, 0), 9)[:5].tolist() == again[0]


def test_noise_is_uniform_and_neighbouring_keys_are_unrelated() -> None:
    rows = np.stack([uniforms((1, step, row, 0), 50) for step in range(20) for row in range(20)])
    assert rows.min() >= 0 and rows.max() < 1
    assert len(np.unique(rows)) == rows.size
    error = 1 / np.sqrt(12 * rows.size)
    assert abs(rows.mean() - 0.5) < 4 * error and abs(rows.var() - 1 / 12) < 0.002
    for shift in (1, 20):  # the next answer, and the next step
        related = np.corrcoef(rows[:-shift].ravel(), rows[shift:].ravel())[0, 1]
        assert abs(related) < 4 / np.sqrt(rows.size)


def test_the_parts_of_a_key_cannot_run_together() -> None:
    assert uniforms((1, 23), 1) != uniforms((12, 3), 1)
