"""Rates, caps, the order of draws, and rows on the disk."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from align.data.arrays import Floats
from align.data.chat import Encoded
from align.data.errors import UserError
from align.data.hashing import permuted
from align.data.mixture.caps import capped, firsts
from align.data.mixture.choose import chosen
from align.data.mixture.plan import Plan, planned
from align.data.mixture.rates import UNLIMITED, examples_proportional, limited, upsampled, whole
from align.data.mixture.store import BATCH, Store, Stored, writer
from align.data.mixture_config import Mixture, SourceShare

T5 = np.array([100, 5000, 2_000_000])


def plan_of(mixture: Mixture, rows: list[int], tokens: list[float] | None = None) -> Plan:
    names = [f"s{i}" for i in range(len(rows))]
    means = np.array(tokens or [1.0] * len(rows))
    return planned(mixture, names, np.array(rows), means, seed=3)


def test_rates_are_those_of_t5() -> None:
    np.testing.assert_allclose(
        examples_proportional(T5, 3000, 1), [0.0164, 0.4918, 0.4918], atol=5e-5
    )
    np.testing.assert_allclose(
        examples_proportional(T5, 3000, 2), [0.0837, 0.4582, 0.4582], atol=5e-5
    )


def test_the_cap_of_rates_goes_from_equal_to_proportional_and_never_back() -> None:
    np.testing.assert_allclose(examples_proportional(T5, 1, 1), 1 / 3)
    np.testing.assert_allclose(examples_proportional(T5, UNLIMITED, 1), T5 / T5.sum())
    largest = [examples_proportional(T5, cap, 1)[2] for cap in (1, 100, 3000, 10**5, 10**7)]
    assert largest == sorted(largest) and largest[0] < largest[-1]


def test_twenty_thousand_draws_are_within_three_sigma() -> None:
    stream = plan_of(Mixture(rows=100_000, rate_cap=3000), T5.tolist()).stream(0, 20_000)
    drawn = Counter(source for source, _ in stream)
    for source, rate in enumerate(examples_proportional(T5, 3000, 1)):
        assert abs(drawn[source] - 20_000 * rate) < 3 * (20_000 * rate * (1 - rate)) ** 0.5


def test_a_cap_of_rates_deletes_no_rows() -> None:
    plan = plan_of(Mixture(rows=1000, rate_cap=10), [200, 300])
    drawn = set(plan.stream(0, 1000))
    assert Counter(source for source, _ in drawn) == {0: 200, 1: 300}


def test_quality_multiplies_the_odds() -> None:
    rates = examples_proportional(T5, 3000, 1)
    np.testing.assert_allclose(upsampled(rates, np.ones(3)), rates)
    twice = upsampled(rates, np.array([1.0, 2.0, 1.0]))
    assert twice[1] / twice[2] == pytest.approx(2 * rates[1] / rates[2])
    assert twice[0] / twice[2] == pytest.approx(rates[0] / rates[2])


def test_ten_rows_of_three_epochs_are_thirty_draws_and_the_others_get_the_rest() -> None:
    shares = (SourceShare(name="s0", quality=50, max_epochs=3),)
    plan = plan_of(Mixture(rows=1000, sources=shares), [10, 400, 800])
    assert plan.draws_M.tolist() == [30, 323, 647]
    drawn = Counter(row for source, row in plan.stream(0, 1000) if source == 0)
    assert drawn == {row: 3 for row in range(10)}


def slow_limited(rates: Floats, limits: Floats, total: float) -> Floats:
    """One drop of mass after the other, to whoever still has room."""
    draws = np.zeros(len(rates))
    for _ in range(20_000):
        room = (draws < limits - 1e-9) & (rates > 0)
        draws[room] += total / 20_000 * rates[room] / rates[room].sum()
    return draws


def test_what_is_left_over_is_redistributed_as_drop_by_drop() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        rates = generator.dirichlet(np.ones(5))
        limits = generator.uniform(50, 600, 5)
        total = min(900.0, 0.9 * float(limits.sum()))
        found = limited(rates, limits, total)
        assert found.sum() == pytest.approx(total) and (found <= limits + 1e-6).all()
        np.testing.assert_allclose(found, slow_limited(rates, limits, total), atol=1)


def test_whole_draws_have_the_rounded_sum() -> None:
    assert whole(np.array([0.5, 1.25, 2.25])).tolist() == [1, 1, 2]
    assert whole(np.array([30.0, 323.33, 646.67])).tolist() == [30, 323, 647]


def tokens_drawn(plan: Plan, lengths: list[float]) -> Floats:
    tokens_M: Floats = plan.draws_M * np.array(lengths)
    return tokens_M


def test_a_token_share_is_one_of_tokens_where_rows_are_ten_times_as_long() -> None:
    lengths = [50.0, 500.0]
    shares = (SourceShare(name="s0", token_share=0.05),)
    for rows in ([10**6, 10**6], [10**6, 2000]):
        plan = plan_of(Mixture(rows=20_000, sources=shares), rows, lengths)
        tokens = tokens_drawn(plan, lengths)
        assert plan.length == 20_000
        assert tokens[0] / tokens.sum() == pytest.approx(0.05, abs=0.005)
    by_rows = np.array([0.05, 0.95]) * lengths  # what mixing by rows would give
    assert abs(by_rows[0] / by_rows.sum() - 0.05) > 0.04


def test_token_shares_hold_where_limits_make_the_others_uneven() -> None:
    lengths = [20.0, 300.0, 70.0, 10.0]
    shares = (
        SourceShare(name="s0", quality=30, max_epochs=2),
        SourceShare(name="s2", token_share=0.25),
        SourceShare(name="s3", token_share=0.1),
    )
    plan = plan_of(Mixture(rows=9000, sources=shares), [100, 5000, 9000, 10**6], lengths)
    tokens = tokens_drawn(plan, lengths)
    assert plan.length == 9000 and plan.draws_M[0] == 200
    np.testing.assert_allclose(tokens[2:] / tokens.sum(), [0.25, 0.1], atol=1e-3)


def test_a_budget_of_tokens_is_spent_whatever_the_ratio_and_the_limits() -> None:
    lengths = [20.0, 300.0, 70.0, 10.0]
    budget = 1_000_000
    for share in (0.1, 0.5, 0.9):
        shares = (
            SourceShare(name="s0", quality=99, max_epochs=2),  # short rows, soon used up
            SourceShare(name="s3", token_share=share),
        )
        plan = plan_of(Mixture(tokens=budget, sources=shares), [100, 5000, 90, 10**6], lengths)
        tokens = tokens_drawn(plan, lengths)
        assert tokens.sum() == pytest.approx(budget, abs=300), "up to one row"
        assert tokens[3] / budget == pytest.approx(share, abs=1e-3)
        assert plan.draws_M[0] == 200


def test_without_a_number_of_rows_a_pass_has_every_row_up_to_the_cap() -> None:
    assert plan_of(Mixture(), [30, 70]).draws_M.tolist() == [30, 70]
    assert plan_of(Mixture(rate_cap=50), [30, 70]).draws_M.tolist() == [30, 50]
    share = (SourceShare(name="s0", token_share=0.5),)
    assert plan_of(Mixture(sources=share), [9, 70], [10.0, 5.0]).draws_M.tolist() == [35, 70]


def test_the_stream_goes_on_anywhere_with_the_same_sequence() -> None:
    plan = plan_of(Mixture(rows=700, rate_cap=50), [30, 10_000, 77])
    whole_stream = list(plan.stream(0, 3 * 700))
    for start in (0, 1, 699, 700, 1234):
        assert list(plan.stream(start, 3 * 700)) == whole_stream[start:]
    again = plan_of(Mixture(rows=700, rate_cap=50), [30, 10_000, 77])
    assert list(again.stream(0, 3 * 700)) == whole_stream
    other = Plan(plan.names, plan.rows_M, plan.draws_M, seed=4)
    assert list(other.stream(0, 3 * 700)) != whole_stream


def test_epochs_of_a_source_go_on_from_pass_to_pass() -> None:
    plan = plan_of(Mixture(rows=40), [100, 60])
    draws = [row for source, row in plan.stream(0, 160) if source == 0]
    assert len(draws) == 100 and sorted(draws) == list(range(100))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 64, 1000, 4097])
def test_a_permutation_has_every_place_once(count: int) -> None:
    index = np.arange(count)
    for key in (0, 1, 2**60):
        keys = np.full(count, key, dtype=np.uint64)
        found = permuted(index, np.full(count, count), keys)
        assert sorted(found.tolist()) == list(range(count))


def test_every_place_is_as_likely() -> None:
    keys = np.random.default_rng(0).integers(0, 2**63, 20_000).astype(np.uint64)
    places = permuted(np.full(20_000, 7), np.full(20_000, 10), keys)
    counts = np.bincount(places, minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi2, 9 degrees of freedom, 0.1 %


@pytest.mark.parametrize(
    ("mixture", "rows", "line"),
    [
        (Mixture(), [5, 0], "source s1 has no row left"),
        (
            Mixture(
                rows=100, sources=tuple(SourceShare(name=f"s{i}", max_epochs=2) for i in (0, 1))
            ),
            [5, 10],
            r"mixture.rows \(100\) is more than max_epochs allows \(30\)",
        ),
        (
            Mixture(
                tokens=100, sources=tuple(SourceShare(name=f"s{i}", max_epochs=2) for i in (0, 1))
            ),
            [5, 10],
            r"mixture.tokens \(100\) is more than max_epochs allows \(30\)",
        ),
    ],
)
def test_a_mixture_that_cannot_be_is_one_line(mixture: Mixture, rows: list[int], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        plan_of(mixture, rows)
    assert "\n" not in str(error.value)


def test_a_budget_of_less_than_a_row_is_one_line() -> None:
    with pytest.raises(UserError, match=r"mixture.tokens \(2\) is less than one row: raise it"):
        plan_of(Mixture(tokens=2), [5, 5], [9.0, 9.0])


def slow_capped(rows: list[tuple[int, int, int]], cap: int) -> set[tuple[int, int, int]]:
    """(hash, task, class): in rounds, the least hash of every class of a task."""
    kept = set()
    for task in {row[1] for row in rows}:
        waiting = {c: sorted(r for r in rows if r[1] == task and r[2] == c) for _, _, c in rows}
        taken: list[tuple[int, int, int]] = []
        while len(taken) < cap and any(waiting.values()):
            for cases in waiting.values():
                if cases:
                    taken.append(cases.pop(0))
        kept |= set(taken)
    return kept


def capped_rows(rows: list[tuple[int, int, int]], cap: int) -> list[tuple[int, int, int]]:
    hashes, tasks, classes = (np.array(column) for column in zip(*rows, strict=True))
    return [rows[i] for i in capped(hashes.astype(np.uint64), tasks, cap, classes)]


def random_rows(count: int) -> list[tuple[int, int, int]]:
    generator = np.random.default_rng(1)
    hashes = generator.permutation(10**6)[:count]
    tasks, classes = generator.integers(0, 5, count), generator.geometric(0.4, count)
    return list(zip(hashes.tolist(), tasks.tolist(), classes.tolist(), strict=True))


def test_a_cap_is_exact_and_balances_classes() -> None:
    rows = random_rows(2000)
    kept = capped_rows(rows, 100)
    for task in range(5):
        mine = [row for row in kept if row[1] == task]
        assert len(mine) == 100
        counts = Counter(row[2] for row in mine)
        there = Counter(row[2] for row in rows if row[1] == task)
        most = max(counts.values())
        assert all(n >= most - 1 or n == there[c] for c, n in counts.items())
    slow = slow_capped(rows, 100)
    balance = [Counter((t, c) for _, t, c in found) for found in (kept, slow)]
    assert all(abs(balance[0][key] - balance[1][key]) <= 1 for key in balance[0] | balance[1])


def test_a_cap_does_not_depend_on_order_nor_on_other_tasks() -> None:
    rows = random_rows(500)
    kept = set(capped_rows(rows, 20))
    shuffled = [rows[i] for i in np.random.default_rng(2).permutation(len(rows))]
    assert set(capped_rows(shuffled, 20)) == kept
    more = [*rows, *((h + 10**7, 9, c) for h, _, c in random_rows(300))]
    assert {row for row in capped_rows(more, 20) if row[1] != 9} == kept


def test_without_classes_the_least_hashes_of_a_task_are_kept() -> None:
    hashes = np.array([5, 1, 4, 2, 9], dtype=np.uint64)
    assert capped(hashes, np.array([0, 0, 0, 0, 1]), 2).tolist() == [1, 3, 4]
    assert firsts(np.array([3, 1, 3, 2, 1], dtype=np.uint64)).tolist() == [0, 1, 3]


def store(path: Path, rows: list[tuple[int, str, str]]) -> Store:
    """Rows of (content, task, label); row i has i % 5 + 1 prompt tokens."""
    with writer(path) as file:
        for i, (content, task, label) in enumerate(rows):
            encoded = Encoded([i] * (i % 5 + 1), [i, 2], truncated=i % 2 == 0)
            file.add(Stored(encoded, content, task, "MIT", "t", label))
    return Store(path)


def test_rows_come_back_from_the_disk_as_they_were(tmp_path: Path) -> None:
    count = BATCH + 7
    found = store(tmp_path / "a.arrow", [(i, "t", "") for i in range(count)])
    assert len(found) == count
    for row in (0, 1, BATCH - 1, BATCH, count - 1):
        assert found.encoded(row) == Encoded([row] * (row % 5 + 1), [row, 2], row % 2 == 0)
    some = np.array([0, 4, BATCH + 1])
    assert found.tokens(some) == sum(row % 5 + 3 for row in some.tolist())
    assert found.tokens() == sum(row % 5 + 3 for row in range(count))


def test_an_empty_store_has_no_rows(tmp_path: Path) -> None:
    assert len(store(tmp_path / "a.arrow", [])) == 0


def test_copies_and_rows_over_the_caps_are_never_drawn(tmp_path: Path) -> None:
    a = store(tmp_path / "a.arrow", [(i, "t", "yes" if i % 4 else "no") for i in range(100)])
    b = store(tmp_path / "b.arrow", [(i, "t" if i % 2 else "u", "no") for i in range(50, 150)])
    sources = [a.choosable("a"), b.choosable("b")]
    assert chosen(Mixture(), sources) == [None, None]
    no_copies = chosen(Mixture(dedup="exact"), sources)
    assert no_copies[0] is not None and no_copies[1] is not None
    assert no_copies[0].tolist() == list(range(100)) and no_copies[1].tolist() == [*range(50, 100)]
    balanced = Mixture(dedup="exact", max_rows_per_task=40, balance_classes=True)
    rows = chosen(balanced, sources)
    assert rows[0] is not None and rows[1] is not None
    labels = Counter(a.names("label")[int(i)].as_py() for i in rows[0])
    assert labels["yes"] == 20 and labels["no"] + sum(i % 2 for i in rows[1].tolist()) == 20
    few = Mixture(sources=(SourceShare(name="b", max_rows=5),))
    only = chosen(few, sources)
    assert only[0] is None and only[1] is not None
    assert [int(b.words("content")[i]) for i in only[1]] == [50, 51, 52, 53, 54]
