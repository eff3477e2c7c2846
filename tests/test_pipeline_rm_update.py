"""The reward model's update: one forward an answer, fair groups, and it learns what was planted."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.data.errors import UserError
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.groups import Choice, Group, Pair
from align.pipeline.rm_update import (
    auxiliary_loss,
    group_scores,
    groups_loss,
    outcomes_in,
    train_on,
)
from align.pipeline.texts import Texts
from align.policy.model import TokenScores
from align.policy.reward_heads import TwoHeads

pytestmark = [
    pytest.mark.usefixtures("one_rank"),
    # DeepSpeed uses parts of torch that are.
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

TinyModel = Callable[[str], PreTrainedModel]


def settings(**rm: Any) -> RunConfig:
    return RunConfig.model_validate({"name": "test", "rm": {"centering_coef": 0} | rm})


def pair(chosen: int, rejected: int, target: float = 1.0, weight: float = 1.0) -> Pair:
    row = {"pair_id": f"{chosen}-{rejected}"}
    return Pair(chosen, rejected, target, target, 0.0, weight, row)


def ranking(answers: list[list[int]], prompt: list[int] | None = None) -> Group:
    """All pairs of better and worse, best first."""
    pairs = list(combinations(range(len(answers)), 2))
    return Group(
        Texts([prompt or [5, 6]] * len(answers), answers),
        [pair(*places, weight=1 / len(pairs)) for places in pairs],
        [],
    )


def random_answers(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]


def engine_of(model: PreTrainedModel, config: RunConfig, steps: int = 1) -> Engine:
    return Engine(TokenScores(model), config.rm.learning_rate, steps, config.train)


def slow_loss(group: Group, scores: list[float]) -> float:
    """Of all pairs, or of all choices, one after the other."""
    if group.choices:
        return sum(
            -one.weight
            * math.log(
                math.exp(scores[one.winner]) / sum(math.exp(scores[j]) for j in one.candidates)
            )
            for one in group.choices
        )
    return sum(
        p.weight * math.log1p(math.exp(scores[p.rejected] - scores[p.chosen])) for p in group.pairs
    )


def test_the_loss_of_a_batch_is_the_sum_over_its_groups_one_pair_or_choice_at_a_time() -> None:
    ranked = ranking([[1]] * 3)
    groups = [
        ranking([[1]] * 4),
        Group(ranked.texts, ranked.pairs, [Choice(0, [0, 1, 2], 0.5), Choice(1, [1, 2], 0.5)]),
        ranking([[1]] * 2),
    ]
    scores = torch.randn(9, generator=torch.Generator().manual_seed(0))
    parts = [scores[:4].tolist(), scores[4:7].tolist(), scores[7:].tolist()]
    expected = sum(slow_loss(group, part) for group, part in zip(groups, parts, strict=True))
    assert groups_loss(groups, scores, settings()).item() == pytest.approx(expected, abs=1e-6)
    centred = groups_loss(groups, scores, settings(centering_coef=0.5)).item() - expected
    by_hand = sum(
        0.5 * p.weight * (part[p.chosen] + part[p.rejected]) ** 2
        for group, part in zip(groups, parts, strict=True)
        for p in group.pairs
    )
    assert centred == pytest.approx(by_hand, abs=1e-5)


def test_a_prompt_with_nine_answers_weighs_as_much_as_one_with_four() -> None:
    def gradient_mass(count: int) -> float:
        """Of the pair losses where all scores are alike: each pulls with half its weight."""
        group = ranking([[1]] * count)
        pulls = [
            torch.autograd.grad(groups_loss([one], scores, settings()), scores)[0].abs().sum()
            for p in group.pairs
            for one in [Group(group.texts, [p], [])]
            for scores in [torch.zeros(count, requires_grad=True)]
        ]
        return float(sum(pulls))

    assert gradient_mass(9) == pytest.approx(gradient_mass(4)) == pytest.approx(1.0)


@pytest.mark.parametrize("packing", [False, True])
def test_each_answer_goes_through_the_model_once(tiny_scalar: TinyModel, packing: bool) -> None:
    group = ranking(random_answers(9))
    model = tiny_scalar("llama")
    config = settings(packing=packing)
    seen: list[Tensor] = []
    engine = engine_of(model, config)
    model.base_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"]), with_kwargs=True
    )
    scores, _ = group_scores([group], engine, config)
    assert len(group.pairs) == 36 and scores.shape == (9,) and len(seen) == 1
    prompts = sum(int((ids[:, :-1] == 5)[ids[:, 1:] == 6].sum()) for ids in seen)
    assert prompts == 9
    share = int((seen[0] == 0).sum()) / seen[0].numel()
    assert (share < 0.2) == packing


def test_packing_changes_no_number(tiny_scalar: TinyModel) -> None:
    groups = [ranking(random_answers(count, seed=count)) for count in (2, 5, 9)]
    found = []
    for packing in (False, True):
        config = settings(packing=packing, learning_rate=1e-2)
        engine = engine_of(tiny_scalar("llama"), config, steps=3)
        found.append([train_on(groups, engine, config) | engine.step(s) for s in range(3)])
    for padded, packed in zip(*found, strict=True):
        assert packed == pytest.approx(padded, rel=1e-4, abs=1e-5)
    assert found[0][0]["loss"] > found[0][2]["loss"]


def test_micro_batches_change_no_number(tiny_scalar: TinyModel) -> None:
    groups = [ranking(random_answers(count, seed=count)) for count in (2, 5, 3, 4)]
    found = []
    for budget in (60, 4096):
        config = settings().model_copy(
            update={"train": settings().train.model_copy(update={"micro_batch_tokens": budget})}
        )
        engine = engine_of(tiny_scalar("llama"), config)
        found.append(train_on(groups, engine, config) | engine.step(0))
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-5)


def test_a_score_that_is_not_finite_stops_the_run_and_names_the_pair(
    tiny_scalar: TinyModel,
) -> None:
    model = tiny_scalar("llama")
    with torch.no_grad():
        cast(Any, model.get_input_embeddings()).weight[77] = math.nan
    good, bad = ranking([[9], [8]]), ranking([[9], [77]])
    bad.pairs[0].row["pair_id"] = "the broken one"
    config = settings()
    with pytest.raises(UserError, match=r"not finite on 1 pairs.*pair_id the broken one") as caught:
        train_on([good, bad], engine_of(model, config), config)
    assert "\n" not in str(caught.value)


def fitted(
    model: PreTrainedModel, groups: list[Group], steps: int, held_out: list[Group], **rm: Any
) -> tuple[list[float], list[float]]:
    """Gaps of the training and of the held-out pairs after so many steps on all groups."""
    config = settings(**{"learning_rate": 5e-3} | rm)
    engine = engine_of(model, config, steps)
    for step in range(steps):
        train_on(groups, engine, config)
        engine.step(step)
    gaps = []
    for part in (groups, held_out):
        with torch.no_grad():
            scores = group_scores(part, engine, config)[0].tolist()
        gaps.append([outcome.gap for outcome in outcomes_in(part, scores)])
    return gaps[0], gaps[1]


def share_right(gaps: list[float]) -> float:
    return sum(gap > 0 for gap in gaps) / len(gaps)


@pytest.fixture
def small_steps(tiny_scalar: TinyModel) -> Callable[[], PreTrainedModel]:
    """The tiny model with weights of the usual size, which trains well."""

    def make() -> PreTrainedModel:
        model = tiny_scalar("llama")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(0.3)
        return model

    return make


RULE = 17  # "never say 17"


def rule_pairs(count: int, seed: int) -> list[Group]:
    """Answers of which the worse one says the forbidden token."""
    groups = []
    for place in range(count):
        generator = torch.Generator().manual_seed(1000 * seed + place)
        clean, broken = torch.randint(20, 60, (2, 5), generator=generator).tolist()
        broken[place % 5] = RULE
        groups.append(ranking([clean, broken]))
    return groups


def test_it_learns_a_planted_rule_and_32_pairs_by_heart(
    small_steps: Callable[[], PreTrainedModel],
) -> None:
    _, held_out = fitted(small_steps(), rule_pairs(64, 1), 30, rule_pairs(100, 2))
    assert share_right(held_out) > 0.95  # of pairs of keeper and breaker: the AUC
    anything = [ranking(random_answers(2, seed=place)) for place in range(32)]
    learnt, _ = fitted(small_steps(), anything, 30, anything[:1])
    assert share_right(learnt) == 1.0


def test_shuffled_labels_stay_at_chance_on_new_pairs(
    small_steps: Callable[[], PreTrainedModel],
) -> None:
    coin = torch.randint(0, 2, (96,), generator=torch.Generator().manual_seed(3)).tolist()
    shuffled = [
        ranking(group.texts.responses[::-1] if flip else group.texts.responses)
        for group, flip in zip(rule_pairs(96, 1), coin, strict=True)
    ]
    _, held_out = fitted(small_steps(), shuffled, 8, rule_pairs(200, 2))
    assert 0.2 < share_right(held_out) < 0.8


def test_ties_pull_the_gap_to_zero(small_steps: Callable[[], PreTrainedModel]) -> None:
    texts = rule_pairs(8, 1)
    tied = [Group(group.texts, [pair(0, 1, target=0.5)], []) for group in texts]
    before, _ = fitted(small_steps(), tied, 0, tied[:1])
    after, _ = fitted(small_steps(), tied, 25, tied[:1])
    assert max(map(abs, after)) < 0.1 * max(map(abs, before))


def test_the_score_reads_the_prompt_too(tiny_scalar: TinyModel) -> None:
    config = settings()
    engine = engine_of(tiny_scalar("llama"), config)
    one, other = ranking([[9, 8], [7]], prompt=[5, 6]), ranking([[9, 8], [7]], prompt=[5, 11])
    with torch.no_grad():
        first, second = group_scores([one, other], engine, config)[0].view(2, 2)
    assert (first - second).abs().min() > 1e-3


def graded(answers: list[list[int]], qualities: dict[int, float]) -> Group:
    plain = ranking(answers)
    return Group(plain.texts, plain.pairs, [], qualities)


def test_the_auxiliary_loss_by_hand() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0])
    groups = [graded([[1]] * 3, {0: 1.0, 2: 0.25}), graded([[1]] * 2, {})]

    def entropy(logit: float, target: float) -> float:
        good = 1 / (1 + math.exp(-logit))
        return -target * math.log(good) - (1 - target) * math.log(1 - good)

    expected = (entropy(0.5, 1.0) + entropy(2.0, 0.25)) / 2
    assert auxiliary_loss(groups, logits).item() == pytest.approx(expected)


@pytest.mark.parametrize("packing", [False, True])
def test_the_auxiliary_head_learns_beside_the_reward(
    small_steps: Callable[[], PreTrainedModel], packing: bool
) -> None:
    config = settings(auxiliary=0.5, learning_rate=5e-3, packing=packing)
    groups = [graded(group.texts.responses, {0: 1.0, 1: 0.0}) for group in rule_pairs(48, 1)]
    model = TwoHeads(small_steps())
    engine = Engine(model, config.rm.learning_rate, 25, config.train)
    for step in range(25):
        train_on(groups, engine, config)
        if step == 0:
            assert model.auxiliary.weight.grad is not None
            assert float(model.auxiliary.weight.grad.abs().max()) > 0
        engine.step(step)
    with torch.no_grad():
        scores, logits = group_scores(groups, engine, config)
    assert logits is not None
    said = logits.view(-1, 2)
    assert float((said[:, 0] > 0).float().mean()) > 0.9
    assert float((said[:, 1] < 0).float().mean()) > 0.9
    assert share_right((scores.view(-1, 2)[:, 0] - scores.view(-1, 2)[:, 1]).tolist()) > 0.9
