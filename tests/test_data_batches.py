"""Micro-batches and the order of rows."""

from collections import Counter

import numpy as np
import pytest

from align.data.batches import Item, epoch_order, micro_batches, stream


def random_items(seed: int) -> list[Item]:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(0, 40))
    return [
        Item(int(generator.integers(1, 6)), int(generator.integers(1, 90))) for _ in range(count)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_item_goes_to_one_micro_batch_of_one_rank(ranks: int) -> None:
    for seed in range(50):
        items = random_items(seed)
        plan = micro_batches(items, budget=200, ranks=ranks)
        assert len(plan) == ranks
        assert len({len(mine) for mine in plan}) == 1  # ZeRO would wait for the rank with fewer
        given = sorted(index for mine in plan for batch in mine for index in batch)
        assert given == list(range(len(items)))


def test_a_micro_batch_stays_within_the_budget_or_holds_one_item() -> None:
    for seed in range(50):
        items = random_items(seed)
        for batch in micro_batches(items, budget=200, ranks=1)[0]:
            rows = sum(items[index].rows for index in batch)
            longest = max(items[index].length for index in batch)
            assert rows * longest <= 200 or len(batch) == 1


def test_packed_items_fill_the_budget_with_tokens_and_not_with_padding() -> None:
    items = [Item(2, 90, tokens=100), Item(2, 60, tokens=70), Item(2, 50, tokens=30)]
    assert micro_batches(items, budget=200, ranks=1) == [[[0, 1, 2]]]
    padded = [Item(2, 90), Item(2, 60), Item(2, 50)]
    assert micro_batches(padded, budget=200, ranks=1) == [[[0], [1], [2]]]


def test_items_of_like_length_share_a_micro_batch() -> None:
    items = [Item(1, 10), Item(1, 2), Item(1, 10), Item(1, 2), Item(1, 1)]
    assert micro_batches(items, budget=20, ranks=1) == [[[0, 2], [1, 3, 4]]]


def test_ranks_share_the_long_ones() -> None:
    items = [Item(1, length) for length in (1, 2, 3, 4)]
    assert micro_batches(items, budget=1, ranks=2) == [[[3], [1]], [[2], [0]]]


def test_a_rank_without_work_has_empty_micro_batches() -> None:
    assert micro_batches([Item(1, 5)], budget=10, ranks=3) == [[[0]], [[]], [[]]]
    assert micro_batches([], budget=10, ranks=2) == [[], []]


@pytest.mark.parametrize("count", [1, 2, 17, 1000])
def test_an_epoch_is_a_permutation(count: int) -> None:
    assert sorted(epoch_order(count, seed=3, epoch=1)) == list(range(count))


def test_an_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [epoch_order(100, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert orders == [epoch_order(100, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_every_place_is_as_likely_for_every_row() -> None:
    first = Counter(epoch_order(4, seed=0, epoch=epoch)[0] for epoch in range(4000))
    assert all(abs(first[row] - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5 for row in range(4))


def test_a_stream_crosses_epochs_with_every_row_once_in_each() -> None:
    drawn = list(stream(count=7, seed=1, start=0, length=21))
    assert [position for position, _ in drawn] == list(range(21))
    rows = [row for _, row in drawn]
    for epoch in range(3):
        assert rows[7 * epoch : 7 * epoch + 7] == epoch_order(7, 1, epoch)


def test_openrlhf_1322_and_nemo_rl_3599_no_prompt_is_lost_wherever_a_stream_is_picked_up() -> None:
    """PPO draws a step's prompts from the step's number alone, so nothing in flight can be lost."""
    whole = list(stream(count=7, seed=1, start=0, length=40))
    for start in range(40):
        assert list(stream(count=7, seed=1, start=start, length=40 - start)) == whole[start:]


def test_a_step_may_need_more_rows_than_there_are() -> None:
    rows = Counter(row for _, row in stream(count=3, seed=5, start=6, length=12))
    assert rows == {0: 4, 1: 4, 2: 4}
