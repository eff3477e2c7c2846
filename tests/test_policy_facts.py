"""Thirty facts on which implementations of PPO differ: our choice; in the docstring, others'.

Names: N+ is Huang et al. 2024 (arXiv:2403.17031), LMH lm-human-preferences, ORL OpenRLHF, DSC
DeepSpeed-Chat, NAl NeMo-Aligner, AF alpaca_farm, SRL safe-rlhf. What a fact means for formulas is
tested next to each formula; here every choice stands alone, in the order of the facts.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.batches import epoch_order
from align.pipeline.config import RunConfig, TrainConfig
from align.pipeline.engine import adamw, schedule_factor
from align.pipeline.ppo_metrics import objective_metrics
from align.pipeline.prompts import read_encoded_prompts
from align.pipeline.run_directory import RunDirectory
from align.policy.advantage import Credit, gae, rloo, whiten
from align.policy.config import LoRAConfig, ModelConfig, PPOConfig, RolloutConfig
from align.policy.kl import adapted_coef, k1, k2, k3, shaped_rewards
from align.policy.logprobs import response_logprobs, text_batch, text_scores
from align.policy.loss import policy_loss, value_loss
from align.policy.model import load_causal_lm, load_scalar_model
from align.policy.rewards import settled_scores
from align.policy.rollout import SampleRequest, uniforms
from align.policy.sample import SamplingSettings, sample
from align.reward.loss import centering_loss, preference_loss

Tiny = Callable[[str], PreTrainedModel]

CPU = torch.device("cpu")
EOS = 2
SETTINGS = SamplingSettings(temperature=1.0, max_new_tokens=8, eos_id=EOS)
PPO = PPOConfig()


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def request(prompt: list[int], key: int) -> SampleRequest:
    return SampleRequest(prompt, (0, 0, key, 0))


def test_fact_01_masks_come_from_lengths_so_padding_may_have_any_id() -> None:
    """Others: `ids != pad`, which takes EOS for padding where the two are one (trl#3091)."""
    batch = text_batch([[5], [5, 6, 7]], [[0, EOS, 0], [EOS]], CPU)
    assert batch.mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_fact_02_the_amount_of_left_padding_changes_no_answer(
    tiny_causal: Tiny, family: str
) -> None:
    """Positions count real tokens. Others: positions that count padding too."""
    model, short = tiny_causal(family), request([5, 6], 1)
    (alone,) = sample(model, [short], SETTINGS)
    beside, _ = sample(model, [short, request([9] * 40, 2)], SETTINGS)
    assert alone.response_ids == beside.response_ids
    assert alone.logprobs == pytest.approx(beside.logprobs, abs=1e-4)


def test_fact_03_a_new_head_has_weights_of_variance_one_over_width_plus_one() -> None:
    """Others: ORL std 1 / (d + 1), AF zeros, trlx two layers."""
    head = load_scalar_model("embedded", ModelConfig(), seed=0).get_submodule("score")
    assert isinstance(head, torch.nn.Linear) and head.bias is None
    width = head.in_features
    assert float(head.weight.detach().std()) == pytest.approx(1 / math.sqrt(width + 1), rel=0.2)


def test_fact_04_the_score_is_read_at_the_last_token_of_the_answer() -> None:
    """That is EOS if the answer has one. Others: trlx and DSC train on every token."""
    batch = text_batch([[5], [5, 6]], [[7, 8, EOS], [7]], CPU)
    scores = text_scores(lambda ids: ids.float() + 0.5, batch)
    assert scores.tolist() == [EOS + 0.5, 7.5]


def test_fact_05_a_preference_costs_the_negative_log_sigmoid_of_the_gap() -> None:
    """With a margin where one is known, and centred. Others: neither by default."""
    chosen, rejected, margin = torch.tensor([[1.5], [0.5], [0.25]])
    loss = preference_loss(chosen, rejected, torch.ones(1), margin)
    assert float(loss) == pytest.approx(-math.log(1 / (1 + math.exp(-0.75))), abs=1e-6)
    assert float(centering_loss(chosen, rejected)) == 4.0


def test_fact_06_a_constant_in_all_rewards_teaches_nothing_so_none_is_calibrated() -> None:
    """Others: N+ shifts by the mean over demonstrations, LMH and ORL scale to variance 1 too."""
    rewards, mask = draws(6, 5).double(), torch.ones(6, 5).double()
    values = draws(6, 5, seed=1).double()
    shifted = rewards.clone()
    shifted[:, -1] += 7
    plain, _ = gae(rewards, values, mask, 1.0, 0.95)
    above, _ = gae(shifted, values + 7, mask, 1.0, 0.95)  # a critic that knows of it
    assert torch.allclose(plain, above)
    credit = Credit(1.0, 0.95, samples_per_prompt=3)
    assert torch.allclose(
        rloo(rewards, values, mask, credit)[0], rloo(shifted, values, mask, credit)[0]
    )


def test_fact_07_dropout_is_off_in_every_model(tiny_causal: Tiny, tmp_path: Path) -> None:
    """Others leave on what the model brings, and the first ratio is not 1."""
    brought = tiny_causal("gpt2")
    assert brought.config.resid_pdrop == 0.1
    brought.save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path, ModelConfig())
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates and set(rates) == {0.0}
    with pytest.raises(ValidationError):
        LoRAConfig.model_validate({"dropout": 0.1})


def test_fact_08_log_probabilities_are_those_of_the_sampling_temperature(tiny_causal: Tiny) -> None:
    """For policy, reference and update. Others (DSC, SRL): those of temperature 1."""
    model, batch = tiny_causal("llama"), text_batch([[5, 6]], [[7, 8]], CPU)
    with torch.no_grad():
        found, _ = response_logprobs(model, batch, temperature=0.7)
        logits = model(input_ids=batch.ids_RL).logits[0, 1:3]
    expected = (logits / 0.7).log_softmax(-1)[[0, 1], [7, 8]]
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_fact_09_training_samples_from_the_whole_distribution() -> None:
    """Neither top-k nor top-p. Others offer both, and then score what they did not sample from."""
    for name in ("top_k", "top_p", "min_new_tokens"):
        with pytest.raises(ValidationError):
            RolloutConfig.model_validate({name: 1})
    assert RolloutConfig().temperature == 1


def test_fact_10_an_answer_ends_at_its_first_eos(tiny_causal: Tiny) -> None:
    """It is not sampled past it. Others: N+ and TRL write on and cut afterwards."""
    drawn = sample(
        tiny_causal("llama"),
        [request([5], key) for key in range(64)],
        SamplingSettings(temperature=3.0, max_new_tokens=60, eos_id=EOS),
    )
    ended = [one for one in drawn if one.finished]
    assert ended and len(ended) < 64
    assert all(one.response_ids.index(EOS) == len(one.response_ids) - 1 for one in ended)
    assert all(EOS not in one.response_ids for one in drawn if not one.finished)


def test_fact_11_an_answer_without_eos_loses_a_penalty() -> None:
    """As in TRL. Others: N+ and LMH replace the score by -1, ORL multiplies it."""
    cut = torch.tensor([0.0, 1.0])
    found = settled_scores(torch.tensor([0.5, 0.5]), cut, 1.0, None, PPO.missing_eos_penalty)
    assert found.tolist() == [0.5, -0.5]


def test_fact_12_each_token_pays_beta_times_its_own_log_ratio() -> None:
    """With its sign. Others: NAl |k1|, AF max(k1, 0), ORL and SRL clamp it; all are biased."""
    logratio = torch.tensor([[0.3, -20.0, 0.1]])
    rewards = shaped_rewards(torch.zeros(1), logratio, torch.ones(1, 3), PPO.kl_coef)
    assert torch.allclose(rewards, -0.05 * logratio)


def test_fact_13_k1_and_k3_have_the_divergence_as_their_mean_and_k2_nearly() -> None:
    """k1 is charged, as in N+ and TRL; k2 and k3 are `ppo.kl`. Others: k3 by default (GRPO)."""
    policy, reference = draws(2, 7).double().log_softmax(-1)
    kl = float((policy.exp() * (policy - reference)).sum())
    means = [float((policy.exp() * k(policy, reference)).sum()) for k in (k1, k2, k3)]
    assert means[0] == pytest.approx(kl) and means[2] == pytest.approx(kl)
    assert means[1] == pytest.approx(kl, rel=0.5) and means[1] != pytest.approx(kl)
    assert PPO.kl == "k1" and PPO.kl_in == "reward"


def test_fact_14_the_score_lands_on_eos_in_full_and_in_short_rows() -> None:
    """Others: N+ and TRL one token later, where there is one (trl#3750)."""
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    rewards = shaped_rewards(torch.tensor([5.0, 7.0]), torch.zeros(2, 3), mask, 0.05)
    assert rewards.tolist() == [[0, 0, 5], [0, 7, 0]]


def test_fact_15_scores_are_clipped_only_where_asked() -> None:
    """Others: ORL and trlx +-10, DSC +-5, ARL 20, always."""
    raw, none = torch.tensor([-30.0, 30.0]), torch.zeros(2)
    assert PPO.score_clip is None
    assert settled_scores(raw, none, 1.0, PPO.score_clip, 1.0).tolist() == [-30, 30]
    assert settled_scores(raw, none, 1.0, 5.0, 1.0).tolist() == [-5, 5]


def test_fact_16_whitened_rewards_keep_their_mean() -> None:
    """Off by default, without Bessel's correction. Others: LMH and AF on, TRL with correction."""
    rewards, mask = 3 + 2 * draws(4, 5), torch.ones(4, 5)
    white = whiten(rewards, mask, keep_mean=True)
    assert float(white.mean()) == pytest.approx(float(rewards.mean()), abs=1e-5)
    assert float(white.var(correction=0)) == pytest.approx(1, abs=1e-4)
    assert not PPO.whiten_rewards


def test_fact_17_gae_bootstraps_within_an_answer_and_returns_are_not_whitened() -> None:
    """gamma 1, lambda 0.95. Others: lambda 1 in ORL, verl and AF."""
    assert (PPO.gamma, PPO.gae_lambda) == (1.0, 0.95)
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.4, 0.6]])
    advantages, returns = gae(rewards, values, torch.ones(1, 2), 1.0, 0.95)
    last = 1.0 - 0.6
    assert advantages[0].tolist() == pytest.approx([0.6 - 0.4 + 0.95 * last, last])
    assert torch.allclose(returns, advantages + values)


def test_fact_18_advantages_are_whitened_over_the_whole_batch() -> None:
    """Others: TRL and N+ over a rank's part, DSC not at all."""
    x, mask = draws(8, 5), torch.ones(8, 5)
    parts = torch.cat([whiten(x[:4], mask[:4]), whiten(x[4:], mask[4:])])
    assert float(whiten(x, mask).mean()) == pytest.approx(0, abs=1e-6)
    assert not torch.allclose(whiten(x, mask), parts, atol=0.05)


def test_fact_19_the_policy_loss_is_clipped_once() -> None:
    """At 0.2. Others: verl clips a second time, at 3 times a negative advantage."""
    assert PPO.clip_range == 0.2
    one = torch.ones(1, 1)
    for advantage, ratio, expected in ((1.0, 1.5, -1.2), (-1.0, 0.5, 0.8), (-1.0, 50.0, 50.0)):
        loss = policy_loss(math.log(ratio) * one, 0 * one, advantage * one, one, 0.2)
        assert float(loss.loss) == pytest.approx(expected, rel=1e-5)


def test_fact_20_the_value_loss_is_half_the_larger_square_under_its_own_optimiser() -> None:
    """Clipped at 0.2. Others: ORL and verl 0.5; N+ and TRL one optimiser, coefficient 0.1."""
    assert PPO.value_clip_range == 0.2
    one = torch.ones(1, 1)
    loss = value_loss(2 * one, 1 * one, 3 * one, one, 0.2)  # clipped to 1.2, further from 3
    assert float(loss.loss) == pytest.approx(0.5 * 1.8**2)
    assert {"learning_rate", "critic_learning_rate"} <= type(PPO).model_fields.keys()


def test_fact_21_in_the_first_pass_the_ratio_is_one() -> None:
    """Exactly, for equal log-probabilities; test_pipeline_ppo_update.py has it for real models.
    Others: trl#454, where it was not."""
    logprobs, advantages = draws(2, 4, 5)
    mask = torch.ones(4, 5)
    loss = policy_loss(logprobs, logprobs, whiten(advantages, mask), mask, 0.2)
    assert float(loss.clipped) == 0
    assert float(loss.loss) / 20 == pytest.approx(0, abs=1e-6)


def test_fact_22_every_pass_has_a_fresh_order_of_the_whole_batch() -> None:
    """4 passes of 1 minibatch, as in N+. Others: DSC one pass, in the order of sampling."""
    assert (PPO.epochs, PPO.minibatches) == (4, 1)
    orders = [epoch_order(64, seed=1, epoch=epoch) for epoch in range(4)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_fact_23_adam_has_epsilon_1e_5_and_the_rate_falls_to_zero() -> None:
    """Others: TRL epsilon 1e-8; LMH TensorFlow's Adam, where epsilon is another one."""
    assert adamw(1e-5, 0.0)["params"]["eps"] == 1e-5
    factors = [schedule_factor(step, 10, TrainConfig()) for step in range(11)]
    assert factors == pytest.approx([1 - step / 10 for step in range(11)])


def test_fact_24_the_adaptive_coefficient_counts_nats_per_answer_and_answers() -> None:
    """Others: verl and ORL feed the mean per token, trlx sums k3 over padding too."""
    logprobs = torch.full((4, 10), -1.0)
    reference, mask = logprobs - 0.9, torch.ones(4, 10)
    found = objective_metrics(
        torch.zeros(4), torch.zeros(4, 10), logprobs, reference, torch.zeros(4, 10), mask
    )
    assert found["objective/kl"] == pytest.approx(9.0, rel=1e-5)  # not 0.9
    kl_coef = adapted_coef(0.1, 9.0, target=6.0, answers=4, horizon=PPO.kl_horizon)
    assert kl_coef == pytest.approx(0.1 * (1 + 0.2 * 4 / 10_000))


def test_fact_25_a_token_counts_the_same_in_every_micro_batch() -> None:
    """Sums over the global token count. Others: means per micro-batch or rank (OpenRLHF#1249)."""
    new, old, advantages = 0.1 * draws(3, 4, 6)
    mask = (torch.arange(6) < torch.tensor([6, 1, 2, 6])[:, None]).float()
    tokens = mask.sum()

    def loss(rows: slice) -> Tensor:
        part = policy_loss(new[rows], old[rows], advantages[rows], mask[rows], 0.2)
        return part.loss

    whole = loss(slice(0, 4)) / tokens
    halves = [loss(slice(0, 2)), loss(slice(2, 4))]
    counts = [mask[:2].sum(), mask[2:].sum()]
    assert float((halves[0] + halves[1]) / tokens) == pytest.approx(float(whole), abs=1e-7)
    of_means = (halves[0] / counts[0] + halves[1] / counts[1]) / 2
    assert abs(float(of_means - whole)) > 1e-4


def test_fact_26_randomness_belongs_to_a_prompt_and_sample_and_not_to_a_rank() -> None:
    """Others: seed + 100003 rank, so that another number of ranks is another run."""
    keys = [
        (seed, step, position, index)
        for seed in (1, 2)
        for step in (0, 1)
        for position in (0, 1)
        for index in (0, 1)
    ]
    assert len({tuple(uniforms(key, 4)) for key in keys}) == len(keys)
    assert (uniforms((1, 2, 3, 0), 4) == uniforms((1, 2, 3, 0), 4)).all()


def test_fact_27_metrics_sum_over_tokens_and_average_over_answers() -> None:
    """As TRL documents them. Others: means over padded rows."""
    logprobs, reference = draws(2, 2, 3)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    scores = torch.tensor([1.0, 2.0])
    rewards = shaped_rewards(scores, logprobs - reference, mask, 0.5)
    found = objective_metrics(scores, rewards, logprobs, reference, mask, mask)
    kl = float((logprobs - reference)[0].sum() + (logprobs - reference)[1, 0]) / 2
    assert found["objective/kl"] == pytest.approx(kl, abs=1e-6)
    assert found["objective/non_score_reward"] == pytest.approx(-0.5 * kl, abs=1e-6)
    assert found["objective/rlhf_reward"] == pytest.approx(
        found["objective/scores"] + found["objective/non_score_reward"], abs=1e-6
    )


def test_fact_28_the_ids_that_were_sampled_are_the_ids_that_are_scored(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Others: trlx and SRL decode and tokenise again, which joins what was apart."""
    (newline,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    sampled = [newline, newline]
    again = tokenizer(tokenizer.decode(sampled), add_special_tokens=False)["input_ids"]
    assert again != sampled
    assert text_batch([[5]], [sampled], CPU).ids_RL.tolist() == [[5, *sampled]]


@pytest.mark.usefixtures("one_rank")
def test_fact_29_a_prompt_that_is_too_long_is_left_out_and_never_cut(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Others: N+ cuts at the last newline before 512 tokens, most at any token."""
    rows = [
        {"prompt": f"{number}: {'so ' * (number % 2 * 90)}why?", "completion": "So."}
        for number in range(40)
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    source = {"format": "prompt_completion", "path": str(file)}
    data = {"prompts": [source], "max_prompt_length": 100, "held_out": 0.4}
    config = RunConfig.model_validate({"name": "x", "data": data})
    learnt, held_out = read_encoded_prompts(config, RunDirectory(tmp_path), tokenizer)
    assert len(learnt) + len(held_out) == 20
    assert all(one.text.endswith("why?") and len(one.ids) <= 100 for one in [*learnt, *held_out])


def test_fact_30_training_samples_and_never_takes_the_likeliest_token(tiny_causal: Tiny) -> None:
    """Others: DSC's Llama path has do_sample=False, and PPO without exploration."""
    drawn = sample(tiny_causal("llama"), [request([5, 6], key) for key in range(8)], SETTINGS)
    assert len({tuple(one.response_ids) for one in drawn}) == 8
