"""PPO against problems whose optimum is known: pi*(y) = pi_ref(y) exp(r(y) / beta) / Z.

The policy is a table of logits and the answer one or two tokens, so that pi* can be enumerated;
rewards, advantages and the update are those of the stage, under DeepSpeed. Source of the optimum:
Ziegler et al. 2019 (arXiv:1909.08593), section 2; Rafailov et al. 2023 (arXiv:2305.18290), eq. 4.

Shapes: B answers, T tokens (1 or 2), V = 3 tokens.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.ppo_update import Experience, update
from align.pipeline.texts import Texts
from align.policy import advantage, kl
from align.policy.logprobs import response_logprobs, response_values

pytestmark = [
    pytest.mark.usefixtures("one_rank"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

CPU = torch.device("cpu")
REFERENCE_V = torch.tensor([0.5, 0.3, 0.2])
REFERENCE_VV = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])
SCORE_V = torch.tensor([0.0, 1.0, 0.5])
SCORE_VV = torch.tensor([[0.0, 1.0, 0.3], [0.8, 0.1, 0.0], [0.2, 0.0, 1.5]])
STEPS = 50
ANSWERS = 96


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads would wait for each other longer than such small models work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Table(nn.Module):
    """Log-probabilities of the first token, and of the second after each first one."""

    def __init__(self) -> None:
        super().__init__()
        self.first_V = nn.Parameter(REFERENCE_V.log())
        self.second_VV = nn.Parameter(REFERENCE_VV.log())

    def forward(self, input_ids: Tensor, use_cache: bool, logits_to_keep: Tensor) -> Any:
        first = self.first_V.expand(len(input_ids), 1, 3)
        second = self.second_VV[input_ids[:, 1:2]]
        return SimpleNamespace(logits=torch.cat([first, second], dim=1)[:, logits_to_keep])

    @torch.no_grad()
    def chances(self, tokens: int) -> Tensor:
        """Of every answer, (V) or (V, V)."""
        first_V = self.first_V.softmax(-1)
        return first_V if tokens == 1 else first_V[:, None] * self.second_VV.softmax(-1)


class TableWithValues(Table):
    """One module that says both."""

    def __init__(self) -> None:
        super().__init__()
        self.values = Values()

    def forward(self, input_ids: Tensor, use_cache: bool, logits_to_keep: Tensor) -> Any:
        output = super().forward(input_ids, use_cache, logits_to_keep)
        return SimpleNamespace(logits=output.logits, token_values=self.values(input_ids))


class Values(nn.Module):
    """What the critic says before the first token, and before the second after each first one."""

    def __init__(self) -> None:
        super().__init__()
        self.first_1 = nn.Parameter(torch.zeros(1))
        self.second_V = nn.Parameter(torch.zeros(3))

    def forward(self, ids_BL: Tensor) -> Tensor:
        first_B1 = self.first_1.expand(len(ids_BL), 1)
        return torch.cat([first_B1, self.second_V[ids_BL[:, 1:]]], dim=1)


def config_with(**ppo: Any) -> RunConfig:
    plain = {"batch_size": ANSWERS, "epochs": 2, "learning_rate": 0.1, "value_clip_range": 5.0}
    plain |= {"critic_learning_rate": 0.1}
    return RunConfig.model_validate({"name": "x", "ppo": plain | ppo})


def trained(tokens: int, **settings: Any) -> Tensor:
    """What PPO makes of the reference: the chances of every answer."""
    config = config_with(**settings)
    ppo, score = config.ppo, SCORE_V if tokens == 1 else SCORE_VV
    table = TableWithValues() if ppo.has_value_head else Table()
    updates = STEPS * ppo.epochs
    models: Any = SimpleNamespace(
        policy=Engine(table, ppo.learning_rate, updates, config.train),
        critic=Engine(Values(), ppo.critic_learning_rate, updates, config.train),
        device=CPU,
        packed=False,
    )
    says = models.critic
    if isinstance(table, TableWithValues):
        says, models.critic = table.values, None
    reference, generator = Table(), torch.Generator().manual_seed(0)
    credit = advantage.Credit(ppo.gamma, ppo.gae_lambda, ppo.samples_per_prompt)
    mask_BT = torch.ones(ANSWERS, tokens)
    for step in range(STEPS):
        chances = table.chances(tokens)
        drawn_B = torch.multinomial(chances.flatten(), ANSWERS, True, generator=generator)
        answers = torch.stack(torch.unravel_index(drawn_B, chances.shape), dim=1)
        texts = Texts([[0]] * ANSWERS, answers.tolist())

        batch = texts.pick(range(ANSWERS), CPU)
        with torch.no_grad():
            logprobs_BT, _ = response_logprobs(models.policy, batch, 1.0)
            reference_BT, _ = response_logprobs(reference, batch, 1.0)
            values_BT = response_values(says, batch)
        in_reward = ppo.kl_coef if ppo.kl_in == "reward" else 0.0
        kl_BT = kl.ESTIMATORS[ppo.kl](logprobs_BT, reference_BT)
        rewards_BT = kl.shaped_rewards(score.flatten()[drawn_B], kl_BT, mask_BT, in_reward)
        estimate = advantage.ESTIMATORS[ppo.advantage]
        advantages_BT, returns_BT = estimate(rewards_BT, values_BT, mask_BT, credit)
        experience = Experience(
            texts=texts,
            mask_BT=mask_BT,
            logprobs_BT=logprobs_BT,
            reference_BT=reference_BT,
            values_BT=values_BT,
            advantages_BT=advantages_BT,
            returns_BT=returns_BT,
            kl_coef=ppo.kl_coef - in_reward,
        )
        update(experience, models, config, step, Texts([], []))
    return table.chances(tokens)


def optimum(tokens: int, beta: float) -> Tensor:
    """pi*, by enumeration."""
    reference, score = Table().chances(tokens), SCORE_V if tokens == 1 else SCORE_VV
    weights = reference * (score / beta).exp()
    return weights / weights.sum()


def distance(found: Tensor, expected: Tensor) -> float:
    """Total variation."""
    return float((found - expected).abs().sum()) / 2


def test_the_closed_form_is_that_of_the_specification() -> None:
    best = optimum(1, 0.5)
    assert best.tolist() == pytest.approx([0.1534, 0.6799, 0.1667], abs=1e-4)
    divergence = float((best * (best / REFERENCE_V).log()).sum())
    assert float((best * SCORE_V).sum()) - 0.5 * divergence == pytest.approx(0.5909, abs=1e-4)


@pytest.mark.parametrize("beta", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("tokens", [1, 2])
def test_ppo_finds_the_optimum(tokens: int, beta: float) -> None:
    assert distance(Table().chances(tokens), optimum(tokens, beta)) > 0.1  # there is a way to go
    assert distance(trained(tokens, kl_coef=beta), optimum(tokens, beta)) < 0.02


@pytest.mark.parametrize("beta", [0.3, 0.5, 1.0])
def test_a_critic_on_the_trunk_finds_it_too(beta: float) -> None:
    """The value is learnt by the policy's optimiser, with a weight in its loss."""
    found = trained(2, kl_coef=beta, critic="trunk", value_coef=0.5)
    assert distance(found, optimum(2, beta)) < 0.02


@pytest.mark.parametrize("tokens", [1, 2])
def test_without_the_divergence_it_does_not(tokens: int) -> None:
    assert distance(trained(tokens, kl_coef=0.0), optimum(tokens, 0.5)) > 0.2


def test_where_drift_costs_everything_the_policy_stays() -> None:
    assert distance(trained(1, kl_coef=50.0), REFERENCE_V) < 0.02


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce++"])
def test_without_a_critic_the_optimum_is_the_same(name: str) -> None:
    found = trained(2, kl_coef=0.5, advantage=name, samples_per_prompt=4)
    assert distance(found, optimum(2, 0.5)) < 0.02


def test_k2_in_the_loss_finds_it_where_an_answer_is_one_token() -> None:
    """Advantages are not whitened with rloo, so that the loss weighs reward and drift alike."""
    settings = {"advantage": "rloo", "samples_per_prompt": 4, "kl": "k2", "kl_in": "loss"}
    assert distance(trained(1, kl_coef=0.5, **settings), optimum(1, 0.5)) < 0.02


def test_k2_in_the_reward_is_another_objective() -> None:
    """k1 is charged there for a reason: its own gradient is 0 on average."""
    assert distance(trained(1, kl_coef=0.5, kl="k2"), optimum(1, 0.5)) > 0.05
