"""What pairs give to the loss: margins in their bounds, and a gradient that only compares."""

import random
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import Preference, Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.loss import preference_loss

ANSWERS = "abcdefghi"


def record(kind: str, name: str, answers: str, prompt: str = "Hi", **fields: Any) -> Record:
    made = header(
        kind,
        name,
        user(prompt),
        [assistant(text) for text in answers],
        source="test",
        license="none",
        annotator_id="ann",
        guideline_version="1",
        completion_ids=list(answers),
    )
    return made | fields


def ranked(ranks: list[int], prompt: str = "Hi") -> Record:
    return record("ranking", f"ranking {prompt}", ANSWERS[: len(ranks)], prompt, ranks=ranks)


def pairs(records: list[Record], **settings: Any) -> list[Preference]:
    parts = convert(records, FeedbackConfig(**settings), 0.1)
    return [row for part in parts for row in part.pairs.to_pylist()]


def loss_of(rows: list[Preference], scores: Tensor) -> Tensor:
    """The weighted loss of pairs, by the scores of the answers a, b, c, ..."""
    columns = [
        torch.tensor([row[name] for row in rows], dtype=torch.float64)
        for name in ("target_prob", "margin", "weight")
    ]
    chosen, rejected = (
        scores[[ANSWERS.index(row[name]) for row in rows]] for name in ("chosen_id", "rejected_id")
    )
    total: Tensor = (columns[2] * preference_loss(chosen, rejected, *columns[:2])).sum()
    return total


def gradient_of(rows: list[Preference], seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    scores = torch.randn(len(ANSWERS), dtype=torch.float64, requires_grad=True)
    loss_of(rows, scores).backward()
    assert scores.grad is not None
    return scores.grad


@pytest.mark.parametrize("ranks", [[1, 2], [4, 2, 3, 1], [1, 2, 2, 3], [1, 1, 1], [*range(1, 10)]])
@pytest.mark.parametrize("margins", ["none", "all"])
def test_the_gradients_of_a_ranking_sum_to_zero_over_its_answers(
    ranks: list[int], margins: str
) -> None:
    gradient = gradient_of(pairs([ranked(ranks)], margins=margins))
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() > 0.01


def test_a_ranking_of_four_and_one_of_nine_pull_as_hard() -> None:
    """At equal scores the best answer, in K - 1 of the K (K - 1)/2 pairs, is pulled by 1/K."""
    for count in (4, 9):
        scores = torch.zeros(len(ANSWERS), dtype=torch.float64, requires_grad=True)
        rows = pairs([ranked([*range(1, count + 1)])])
        loss = loss_of(rows, scores)
        loss.backward()
        assert loss.item() == pytest.approx(0.6931472, abs=1e-6) and scores.grad is not None
        assert scores.grad[0].item() == pytest.approx(-1 / count, abs=1e-6)


def test_a_worse_rank_never_lowers_the_gradient_of_a_better_one() -> None:
    """At equal scores the order of the gradients is that of the ranks."""
    scores = torch.zeros(len(ANSWERS), dtype=torch.float64, requires_grad=True)
    ranks = [3, 1, 2, 2, 4]
    loss_of(pairs([ranked(ranks)], ties="drop"), scores).backward()
    assert scores.grad is not None
    pulls = scores.grad.tolist()
    for i, j in combinations(range(len(ranks)), 2):
        assert (pulls[i] < pulls[j]) == (ranks[i] < ranks[j]) or ranks[i] == ranks[j]


def test_a_batch_with_and_without_margins_is_the_sum_of_its_rows() -> None:
    strong = record("comparison", "1", "ab", outcome="a", strength=3)
    unknown = record("comparison", "2", "ab", "Ho", outcome="b", strength=None)
    tie = record("comparison", "3", "cd", "Hu", outcome="tie", strength=3)
    rows = pairs([strong, unknown, tie, ranked([1, 2, 3], "Ha")], margins="all")
    assert {round(row["margin"], 3) for row in rows} == {0.0, 0.5, 1.0}
    torch.manual_seed(1)
    scores = torch.randn(len(ANSWERS), dtype=torch.float64)
    alone = sum(loss_of([row], scores).item() for row in rows)
    assert loss_of(rows, scores).item() == pytest.approx(alone)
    plain = pairs([strong, unknown, tie, ranked([1, 2, 3], "Ha")], margins="none")
    assert all(row["margin"] == 0 for row in plain)
    for row, bare in zip(rows, plain, strict=True):
        more = loss_of([row], scores).item() - loss_of([bare], scores).item()
        assert more > 0 if row["margin"] else more == 0


def test_margins_are_bounded_and_zero_where_nothing_is_known() -> None:
    """Ranks and strengths give at most 1; an unknown strength and a tie give 0."""
    chance = random.Random(2)
    records = [ranked(chance.sample(range(1, 6), 5), f"ranked {i}") for i in range(30)]
    records += [
        record(
            "comparison",
            f"battle {i}",
            "ab",
            f"battle {i % 20}",
            outcome=chance.choice(["a", "b", "tie"]),
            strength=chance.choice([None, 0, 1, 2, 3]),
        )
        for i in range(60)
    ]
    rows = pairs(records, margins="all")
    assert all(0 <= row["margin"] <= 1 for row in rows)
    assert all(row["margin"] == 0 for row in rows if row["target_prob"] == 0.5)
    assert max(row["margin"] for row in rows) == 1
    (unknown,) = pairs([record("comparison", "x", "ab", outcome="a", strength=None)], margins="all")
    assert unknown["margin"] == 0
