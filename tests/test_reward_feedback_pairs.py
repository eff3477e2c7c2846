"""Rankings and battles as pairs: targets, weights, provenance."""

import math
import random
from collections.abc import Iterable
from itertools import combinations, pairwise
from typing import Any

import pytest

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import Preference, Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.feedback.pairs import Ties

SCORES = {"0": 0.3, "1": -0.4, "2": 1.2, "3": 0.1}


def to_pairs(records: Iterable[Record], ties: Ties = "soft", **options: Any) -> list[Preference]:
    """The rows of the preference table."""
    parts = convert(records, FeedbackConfig(ties=ties, **options), 0.1)
    return [row for part in parts for row in part.pairs.to_pylist()]


def ranked(name: str, ranks: list[int], prompt: str = "Hi", **changes: object) -> Record:
    made = header(
        "ranking",
        name,
        user(prompt),
        [assistant(str(i)) for i in range(len(ranks))],
        source="test",
        license="none",
        annotator_id=f"annotator of {name}",
        guideline_version="1",
        completion_ids=[str(i) for i in range(len(ranks))],
    )
    return made | {"ranks": ranks} | changes


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0)


def pair_loss(pair: Preference) -> float:
    """Cross-entropy of the target with sigma(score of chosen - score of rejected)."""
    gap = SCORES[pair["chosen_id"]] - SCORES[pair["rejected_id"]]
    target, weight = float(pair["target_prob"]), float(pair["weight"])
    return weight * (target * softplus(-gap) + (1 - target) * softplus(gap))


def slow_ranking_loss(ranks: list[int]) -> float:
    """(1/|P|) sum over better and worse of -log sigma(r_i - r_j), loops only."""
    losses = []
    for i in range(len(ranks)):
        for j in range(len(ranks)):
            if ranks[i] < ranks[j]:
                losses.append(-math.log(1 / (1 + math.exp(SCORES[str(j)] - SCORES[str(i)]))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("ranks", [[1, 2], [2, 1], [4, 2, 3, 1], [1, 2, 2, 3], [2, 1, 1]])
def test_the_weighted_pair_losses_are_the_ranking_loss(ranks: list[int]) -> None:
    pairs = to_pairs([ranked("f", ranks)], "drop")
    assert sum(map(pair_loss, pairs)) == pytest.approx(slow_ranking_loss(ranks), abs=1e-6)


def test_two_ranked_answers_are_bradley_terry() -> None:
    (pair,) = to_pairs([ranked("f", [2, 1])])
    assert (pair["chosen_id"], pair["rejected_id"]) == ("1", "0")
    assert (pair["target_prob"], pair["weight"], pair["margin"]) == (1.0, 1.0, 0.0)


def test_tied_ranks_are_soft_pairs_or_none() -> None:
    dropped = to_pairs([ranked("f", [1, 2, 2, 3])], "drop")
    assert len(dropped) == 5
    soft = to_pairs([ranked("f", [1, 2, 2, 3])])
    (tie,) = [pair for pair in soft if pair["target_prob"] == 0.5]
    assert len(soft) == 6 and (tie["chosen_id"], tie["rejected_id"]) == ("1", "2")
    assert to_pairs([ranked("f", [1, 1, 1])], "drop") == []


def test_prompts_with_four_and_with_nine_answers_weigh_the_same() -> None:
    records = [ranked("f", [1, 2, 3, 4]), ranked("g", list(range(1, 10)), prompt="Ho")]
    pairs = to_pairs(records)
    masses: dict[str, list[float]] = {}
    for pair in pairs:
        masses.setdefault(pair["group_id"], []).append(pair["weight"])
        assert pair["group_size"] in (6, 36)
    assert sorted(map(len, masses.values())) == [6, 36]
    for mass in masses.values():
        assert math.fsum(mass) == pytest.approx(1, abs=1e-6)


def test_rankings_of_two_people_become_one_pair_per_two_answers() -> None:
    records = [ranked("f", [1, 2, 3]), ranked("g", [1, 3, 2]), ranked("h", [1, 3, 2])]
    pairs = {(pair["chosen_id"], pair["rejected_id"]): pair for pair in to_pairs(records)}
    assert set(pairs) == {("0", "1"), ("0", "2"), ("2", "1")}
    assert pairs["2", "1"]["target_prob"] == pytest.approx(2 / 3)
    assert pairs["2", "1"]["agreement"] == pytest.approx(2 / 3)
    assert pairs["2", "1"]["feedback_ids"] == ["f", "g", "h"]
    assert pairs["2", "1"]["n_annotators"] == 3


def test_pairs_do_not_depend_on_the_order_of_rows() -> None:
    records = [
        ranked(name, ranks) for name, ranks in zip("fgh", ([1, 2], [2, 1], [1, 1]), strict=True)
    ]
    assert to_pairs(records) == to_pairs(records[::-1])


def test_gold_rankings_are_never_exported() -> None:
    records = [ranked("f", [1, 2], gold=True), ranked("g", [1, 2])]
    (pair,) = to_pairs(records)
    assert pair["feedback_ids"] == ["g"]
    assert to_pairs(records[:1]) == []


def test_answers_of_the_same_text_make_no_pair_and_are_one_answer() -> None:
    same = ranked("f", [1, 2, 3], completions=[assistant("a"), assistant("a"), assistant("b")])
    (pair,) = to_pairs([same])
    assert (pair["chosen_id"], pair["rejected_id"], pair["target_prob"]) == ("0", "2", 1.0)


def test_without_an_annotator_exactly_that_contribution_is_gone() -> None:
    records = [ranked("f", [1, 2, 3]), ranked("g", [1, 3, 2]), ranked("h", [2, 1], prompt="Ho")]
    every = {pair["pair_id"]: pair for pair in to_pairs(records)}
    without = {pair["pair_id"]: pair for pair in to_pairs([records[0], records[2]])}
    assert every.keys() == without.keys()
    (untouched,) = (name for name, pair in every.items() if pair["feedback_ids"] == ["h"])
    assert without[untouched] == every[untouched]
    both = {(p["chosen_id"], p["rejected_id"]): p["target_prob"] for p in every.values()}
    alone = {(p["chosen_id"], p["rejected_id"]): p["target_prob"] for p in without.values()}
    # Of answers 1 and 2 the two say the opposite: an even pair, and with one of them a sure one.
    assert both.pop(("1", "2")) == 0.5 and alone.pop(("1", "2")) == 1
    assert both == alone
    assert all("annotator of g" not in pair["annotator_ids"] for pair in without.values())


def test_all_answers_of_one_cluster_are_in_one_split() -> None:
    records = [
        ranked(str(i), [1, 2], prompt=f"Hi {i}", cluster_id=f"cluster {i // 10}")
        for i in range(200)
    ]
    pairs = to_pairs(records)
    splits = {(pair["cluster_id"], pair["split"]) for pair in pairs}
    assert len(splits) == 20 and {split for _, split in splits} == {"train", "test"}


def battle(name: str, outcome: str, order: str = "01", **changes: object) -> Record:
    """A vote between two of the answers 0, 1 and 2; `order` says which is a and which b."""
    made = ranked(
        name,
        [1, 1],
        completions=[assistant(one) for one in order],
        completion_ids=list(order),
        kind="comparison",
    )
    return made | {"outcome": outcome, "strength": None} | changes


def slow_target(votes: list[str]) -> float:
    return (votes.count("a") + 0.5 * votes.count("tie")) / len(votes)


@pytest.mark.parametrize("votes", ["a a b", "a tie", "b b b", "tie tie", "a b", "b tie tie a a"])
def test_votes_on_two_answers_are_their_share(votes: str) -> None:
    listed = votes.split()
    records = [battle(f"f{i}", vote) for i, vote in enumerate(listed)]
    (pair,) = to_pairs(records)
    share = slow_target(listed)
    assert pair["target_prob"] == pytest.approx(max(share, 1 - share))
    assert pair["chosen_id"] == ("1" if share < 0.5 else "0")
    assert pair["margin"] == 0.0 and pair["group_weight"] == 1.0


def test_a_battle_shown_the_other_way_round_counts_for_the_same_pair() -> None:
    (pair,) = to_pairs([battle("f", "a"), battle("g", "b", order="10")])
    assert (pair["chosen_id"], pair["target_prob"], pair["agreement"]) == ("0", 1.0, 1.0)


def test_skipped_battles_say_nothing() -> None:
    assert to_pairs([battle("f", "skip")]) == []


def test_dropped_ties_do_not_count_as_votes() -> None:
    votes = ["a", "tie", "tie"]
    records = [battle(f"f{i}", vote) for i, vote in enumerate(votes)]
    (pair,) = to_pairs(records, "drop")
    assert (pair["target_prob"], pair["feedback_ids"]) == (1.0, ["f0"])
    assert to_pairs(records[1:], "drop") == []
    assert to_pairs([battle("f", "a"), battle("g", "b")], "drop") == []


def test_more_votes_weigh_more_inside_a_group_and_not_between_groups() -> None:
    records = [battle(f"f{i}", "a") for i in range(3)] + [battle("g", "a", order="02")]
    pairs = to_pairs(records)
    by_id = {pair["rejected_id"]: pair["group_weight"] for pair in pairs}
    assert by_id == {"1": 1.5, "2": 0.5}
    assert sum(pair["weight"] * pair["group_weight"] for pair in pairs) == pytest.approx(1)


def test_a_cycle_of_battles_is_three_pairs() -> None:
    orders = ["01", "12", "20"]
    records = [battle(f"f{i}", "a", order) for i, order in enumerate(orders)]
    pairs = to_pairs(records)
    assert sorted(pair["chosen_id"] for pair in pairs) == ["0", "1", "2"]
    assert all(ours["group_id"] == theirs["group_id"] for ours, theirs in pairwise(pairs))


PROBS = {"a": 1.0, "b": 0.0, "tie": 0.5}


def random_records(seed: int) -> list[Record]:
    """Rankings and battles by two criteria, from two sources, on the answers to four prompts."""
    chance = random.Random(seed)
    records = []
    for i in range(150):
        shared: dict[str, Any] = {
            "source": chance.choice(["s", "t"]),
            "criterion": chance.choice(["overall", "helpful"]),
        }
        prompt = f"prompt {chance.randrange(4)}"
        if chance.random() < 0.5:
            ranks = [chance.randint(1, 3) for _ in range(3)]
            dense = [sorted(set(ranks)).index(rank) + 1 for rank in ranks]
            records.append(ranked(f"f{i}", dense, prompt, **shared))
        else:
            order = "".join(chance.sample("012", 2))
            made = battle(f"f{i}", chance.choice(["a", "b", "tie"]), order, **shared)
            records.append(ranked(f"f{i}", [1, 1], prompt) | shared | {
                name: made[name]
                for name in ("kind", "outcome", "strength", "completions", "completion_ids")
            })  # fmt: skip
    return records


def slow_pairs(records: list[Record]) -> dict[tuple[str, str, str, str], tuple[float, float]]:
    """Probability that the first is better and group weight, in loops.

    Votes are counted by prompt, criterion, two answers, source and kind; then sources and kinds are
    averaged, each by its number of votes.
    """
    votes: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        ids = record["completion_ids"]
        for i, j in combinations(range(len(ids)), 2):
            if record["kind"] == "ranking":
                prob = (1 + (record["ranks"][i] < record["ranks"][j])) / 2
                prob -= (record["ranks"][i] > record["ranks"][j]) / 2
            else:
                prob = PROBS[record["outcome"]]
            first, second, prob = (
                (ids[i], ids[j], prob) if ids[i] < ids[j] else (ids[j], ids[i], 1 - prob)
            )
            names = (record["prompt_id"], record["criterion"], first, second)
            group = (record["source"], record["kind"])
            votes.setdefault((*names, *group), []).append(prob)
    found: dict[tuple[str, str, str, str], tuple[float, float]] = {}
    for key in sorted(votes):
        pair = (key[0], key[1], key[2], key[3])
        if pair in found:
            continue
        mine = {other: given for other, given in votes.items() if other[:4] == pair}
        every = [prob for given in mine.values() for prob in given]
        same_group = [
            len(given)
            for other, given in votes.items()
            if (other[:2], other[4:]) == (key[:2], key[4:])
        ]
        weight = len(votes[key]) / (sum(same_group) / len(same_group))
        found[pair] = (sum(every) / len(every), weight)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_kinds_and_sources_are_merged_as_the_slow_twin_does(seed: int) -> None:
    records = random_records(seed)
    twin = slow_pairs(records)
    rows = to_pairs(records)
    assert len(rows) == len(twin)
    for row in rows:
        low, high = sorted((row["chosen_id"], row["rejected_id"]))
        prob, weight = twin[row["prompt_id"], row["criterion"], low, high]
        assert row["target_prob"] == pytest.approx(max(prob, 1 - prob), abs=1e-6)
        if abs(prob - 0.5) > 1e-9:
            assert row["chosen_id"] == (low if prob > 0.5 else high)
        else:
            assert row["chosen_id"] == low and row["margin"] == 0
        assert row["group_weight"] == pytest.approx(weight)
