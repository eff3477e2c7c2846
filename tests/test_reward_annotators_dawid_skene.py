"""Dawid-Skene against loops, on planted annotators, and where there is next to nothing to learn."""

import math

import numpy as np
import pytest

from align.reward.annotators.dawid_skene import RIGHT, SEEN, WRONG, DawidSkene, fit
from align.reward.annotators.votes import TIE, UNKNOWN, Floats, Ints, Votes, votes_of

PLANTED = (0.9, 0.8, 0.7, 0.55, 0.2)


def planted(
    accuracies: tuple[float, ...], items: int, labels: int, seed: int
) -> tuple[Votes, Ints]:
    """Votes of everybody on everything, and the truth; a wrong vote is any of the other labels."""
    rng = np.random.default_rng(seed)
    truth_I = rng.integers(labels, size=items)
    rows = []
    for item, truth in enumerate(truth_I):
        for annotator, accuracy in enumerate(accuracies):
            slip = 0 if rng.random() < accuracy else int(rng.integers(1, labels))
            rows.append((f"{item:04}", f"{annotator}", (int(truth) + slip) % labels))
    item_ids, annotator_ids, said = zip(*rows, strict=True)
    kinds = ["human"] * len(rows)
    return votes_of(item_ids, annotator_ids, kinds, said, label_count=labels), truth_I


def slow_objective(votes: Votes, fitted: DawidSkene) -> float:
    """The log of prior times likelihood, product by product."""
    total = 0.0
    for item in range(len(votes.items)):
        likelihood = 0.0
        for true in range(votes.label_count):
            joint = float(fitted.prior_L[true])
            for vote in np.flatnonzero(votes.item_N == item):
                annotator, said = votes.annotator_N[vote], votes.label_N[vote]
                joint *= float(fitted.confusion_ALL[annotator, true, said])
            likelihood += joint
        total += math.log(likelihood)
    for confusion in fitted.confusion_ALL:
        for true, row in enumerate(confusion):
            for said, p in enumerate(row):
                total += (RIGHT if true == said else WRONG) * math.log(p)
    return total + SEEN * sum(math.log(p) for p in fitted.prior_L)


def slow_em(votes: Votes, steps: int) -> Floats:
    """The posterior after so many steps, counting vote by vote."""
    items, labels = len(votes.items), range(votes.label_count)
    rows = list(zip(votes.item_N, votes.annotator_N, votes.label_N, strict=True))
    counts_IL = votes.counts()
    posterior: Floats = counts_IL / counts_IL.sum(axis=1, keepdims=True)
    for _ in range(steps):
        prior = [SEEN + posterior[:, true].sum() for true in labels]
        counts = {
            (a, true, said): RIGHT if true == said else WRONG
            for a in range(len(votes.annotators))
            for true in labels
            for said in labels
        }
        for item, a, said in rows:
            for true in labels:
                counts[a, true, said] += posterior[item, true]
        fresh = np.array([[p / sum(prior) for p in prior] for _ in range(items)])
        for item, a, said in rows:
            for true in labels:
                p = counts[a, true, said] / sum(counts[a, true, other] for other in labels)
                fresh[item, true] *= p
        posterior = fresh / fresh.sum(axis=1, keepdims=True)
    return posterior


def test_every_step_is_what_loops_give() -> None:
    votes, _ = planted((0.8, 0.7, 0.4), 12, 3, seed=1)
    fitted = fit(votes)
    expected = slow_em(votes, len(fitted.objectives))
    assert fitted.posterior_IL == pytest.approx(expected, abs=1e-9)


def test_the_objective_is_the_log_of_prior_times_likelihood() -> None:
    votes, _ = planted((0.8, 0.7, 0.4), 12, 3, seed=1)
    fitted = fit(votes)
    assert fitted.objectives[-1] == pytest.approx(slow_objective(votes, fitted), abs=1e-8)


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_annotators_are_recovered_and_beat_the_majority(labels: int, seed: int) -> None:
    votes, truth_I = planted(PLANTED, 1000, labels, seed)
    fitted = fit(votes)
    found_I, majority_I = fitted.posterior_IL.argmax(axis=1), votes.majority()
    assert (found_I == truth_I).mean() >= (majority_I == truth_I).mean()
    assert fitted.accuracy_A == pytest.approx(PLANTED, abs=0.05)
    adversary = np.full((labels, labels), 0.8 / (labels - 1))
    np.fill_diagonal(adversary, 0.2)
    assert fitted.confusion_ALL[4] == pytest.approx(adversary, abs=0.1)
    assert fitted.prior_L == pytest.approx(np.full(labels, 1 / labels), abs=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_the_objective_never_falls(seed: int) -> None:
    votes, truth_I = planted(PLANTED, 200, 3, seed)
    gold_I = np.where(np.arange(200) < 10, truth_I, UNKNOWN)
    for fitted in (fit(votes), fit(votes, gold_I)):
        assert fitted.converged and len(fitted.objectives) > 2
        assert np.diff(fitted.objectives).min() >= -1e-9 * abs(fitted.objectives[-1])


def test_the_posterior_is_as_sure_as_it_is_right() -> None:
    votes, truth_I = planted(PLANTED, 5000, 2, seed=3)
    posterior_IL = fit(votes).posterior_IL
    right_I = posterior_IL.argmax(axis=1) == truth_I
    assert posterior_IL.max(axis=1).mean() == pytest.approx(right_I.mean(), abs=0.015)


def test_the_prior_prefers_people_who_are_right_to_the_swapped_labels() -> None:
    votes, truth_I = planted((0.9, 0.8, 0.7), 300, 2, seed=0)
    fitted = fit(votes)
    swapped = DawidSkene(
        fitted.posterior_IL[:, ::-1],
        fitted.confusion_ALL[:, ::-1],
        fitted.prior_L[::-1],
        (),
        converged=True,
    )
    assert (fitted.posterior_IL.argmax(axis=1) == truth_I).mean() > 0.9
    assert slow_objective(votes, fitted) > slow_objective(votes, swapped) + 1


def test_gold_items_resolve_the_swap_where_most_annotators_lie() -> None:
    votes, truth_I = planted((0.9, 0.9, 0.15, 0.15, 0.15), 500, 2, seed=0)
    blind = fit(votes).posterior_IL.argmax(axis=1)
    assert (blind == truth_I).mean() < 0.1  # nothing in the votes says who lies
    gold_I = np.where(np.arange(500) < 10, truth_I, UNKNOWN)
    fitted = fit(votes, gold_I)
    assert (fitted.posterior_IL.argmax(axis=1)[10:] == truth_I[10:]).mean() > 0.95
    assert fitted.accuracy_A == pytest.approx((0.9, 0.9, 0.15, 0.15, 0.15), abs=0.05)


def test_gold_items_keep_their_label_whatever_people_say() -> None:
    votes, truth_I = planted((0.9, 0.8), 50, 3, seed=0)
    gold_I = np.full(50, UNKNOWN)
    gold_I[7] = (truth_I[7] + 1) % 3
    posterior_I = fit(votes, gold_I).posterior_IL[7]
    assert posterior_I.tolist() == np.eye(3)[gold_I[7]].tolist()


def one_annotator() -> Votes:
    return votes_of(["p", "q", "r"], ["a"] * 3, ["human"] * 3, [0, 2, 2])


def one_item() -> Votes:
    return votes_of(["p"] * 3, list("abc"), ["human"] * 3, [0, 0, 2])


def one_vote() -> Votes:
    return votes_of(["p"], ["a"], ["human"], [2])


def only_ties() -> Votes:
    return votes_of(list("ppqq"), list("abab"), ["human"] * 4, [TIE] * 4)


def one_who_always_says_the_same() -> Votes:
    said = [x for truth in [0, 1, 2, 0, 2, 2] for x in (truth, truth, 0)]
    items = [f"{item}" for item in range(6) for _ in range(3)]
    return votes_of(items, ["a", "b", "same"] * 6, ["human"] * 18, said)


def an_item_without_votes() -> Votes:
    votes = votes_of(["p", "q"], ["a", "bot"], ["human", "model"], [0, 2])
    return votes.of_kind("human")


def nothing() -> Votes:
    return votes_of([], [], [], [])


DEGENERATE = [
    one_annotator,
    one_item,
    one_vote,
    only_ties,
    one_who_always_says_the_same,
    an_item_without_votes,
    nothing,
]


@pytest.mark.parametrize("votes", [made() for made in DEGENERATE], ids=lambda _: "")
def test_degenerate_votes_have_a_defined_result_and_always_the_same(votes: Votes) -> None:
    fitted, again = fit(votes), fit(votes)
    assert fitted.converged
    for probabilities in (fitted.posterior_IL, fitted.confusion_ALL, fitted.prior_L):
        assert np.isfinite(probabilities).all() and (probabilities > 0).all()
        assert np.allclose(probabilities.sum(axis=-1), 1)
    assert np.array_equal(fitted.posterior_IL, again.posterior_IL)
    assert fitted.objectives == again.objectives
    sides = votes.majority() != UNKNOWN
    assert (fitted.posterior_IL.argmax(axis=1) == votes.majority())[sides].all()


def test_an_item_without_votes_gets_the_prior() -> None:
    fitted = fit(an_item_without_votes())
    assert fitted.posterior_IL[1] == pytest.approx(fitted.prior_L)


def test_who_always_says_the_same_tells_nothing() -> None:
    votes = one_who_always_says_the_same()
    assert fit(votes).posterior_IL.argmax(axis=1).tolist() == [0, 1, 2, 0, 2, 2]


def test_many_votes_on_one_item_do_not_underflow() -> None:
    count = 20_000
    votes = votes_of(["p"] * count, [f"{a}" for a in range(count)], ["human"] * count, [2] * count)
    assert fit(votes).posterior_IL[0, 2] == pytest.approx(1)
