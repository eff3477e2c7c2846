"""Dawid-Skene: what is true of each item, and how each annotator errs, from the votes alone.

Item i has the true label k with probability p_k, and annotator a then says l with probability
pi_a[k, l]. Expectation-maximisation alternates between the two. Source: Dawid and Skene 1979,
"Maximum likelihood estimation of observer error-rates using the EM algorithm", eqs. 2.3 to 2.5.

Two things are added. Every count starts above zero (a Dirichlet prior), so no probability is ever
0; and it starts higher on the diagonal. Without that, an answer with all labels swapped and all
annotators turned into liars is as likely: the prior says that people are right rather than wrong.
Gold items say it more strongly, even where most annotators are liars.

Shapes: N votes, I items, A annotators, L labels. Log-likelihoods are in nats.
"""

from dataclasses import dataclass

import numpy as np

from align.reward.annotators.votes import UNKNOWN, Floats, Ints, Votes

RIGHT, WRONG = 2.0, 1.0  # votes that each annotator starts with, per cell of the confusion matrix
SEEN = 1.0  # items of each label that there are to start with
TOLERANCE = 1e-7  # nats a vote: a smaller gain ends the iteration
MOST_STEPS = 500


@dataclass(frozen=True)
class DawidSkene:
    """What the votes say about items and annotators."""

    posterior_IL: Floats  # P(true label | all votes)
    confusion_ALL: Floats  # P(annotator says the second label | the first is true)
    prior_L: Floats  # how common each true label is
    objectives: tuple[float, ...]  # log-likelihood plus log-prior, after each step
    converged: bool

    @property
    def accuracy_A(self) -> Floats:
        """How often each annotator says what is true."""
        right_AL = np.diagonal(self.confusion_ALL, axis1=1, axis2=2)
        return np.asarray(right_AL @ self.prior_L, np.float64)


def fit(votes: Votes, gold_I: Ints | None = None) -> DawidSkene:
    """The maximum a posteriori by EM; deterministic, and the objective never falls.

    `gold_I` holds the true label of each gold item and UNKNOWN elsewhere (see `Votes.known`).
    Items without votes get the prior.
    """
    if gold_I is None:
        gold_I = np.full(len(votes.items), UNKNOWN)
    posterior_IL = _start(votes, gold_I)
    objectives: list[float] = []
    converged = False
    while not converged and len(objectives) < MOST_STEPS:
        prior_L, confusion_ALL = _maximise(votes, posterior_IL)
        posterior_IL, objective = _expect(votes, gold_I, prior_L, confusion_ALL)
        gain = objective - objectives[-1] if objectives else np.inf
        converged = gain <= TOLERANCE * len(votes.item_N)
        objectives.append(objective)
    return DawidSkene(posterior_IL, confusion_ALL, prior_L, tuple(objectives), converged)


def _start(votes: Votes, gold_I: Ints) -> Floats:
    """The gold labels alone, where there are any: the majority may be wrong. Else vote shares."""
    if (gold_I != UNKNOWN).any():
        return np.asarray(gold_I[:, None] == np.arange(votes.label_count), np.float64)
    counts_IL = votes.counts()
    return np.asarray(counts_IL / np.maximum(counts_IL.sum(axis=1, keepdims=True), 1), np.float64)


def _maximise(votes: Votes, posterior_IL: Floats) -> tuple[Floats, Floats]:
    """M step: smoothed counts, normalised."""
    labels, annotators = votes.label_count, len(votes.annotators)
    said_N = votes.annotator_N * labels + votes.label_N
    counts_ALL = np.empty((annotators, labels, labels))
    for true in range(labels):
        weight_N = posterior_IL[votes.item_N, true]
        counts = np.bincount(said_N, weight_N, minlength=annotators * labels)
        counts_ALL[:, true, :] = counts.reshape(annotators, labels)
    counts_ALL += _start_counts(labels)
    prior_L = posterior_IL.sum(axis=0) + SEEN
    return prior_L / prior_L.sum(), counts_ALL / counts_ALL.sum(axis=2, keepdims=True)


def _expect(
    votes: Votes, gold_I: Ints, prior_L: Floats, confusion_ALL: Floats
) -> tuple[Floats, float]:
    """E step: q_i(k) ~ p_k prod_a pi_a[k, l_ia], and the objective at these parameters."""
    labels, items = votes.label_count, len(votes.items)
    log_confusion_ALL = np.log(confusion_ALL)
    log_joint_IL = np.empty((items, labels))
    for true in range(labels):
        log_N = log_confusion_ALL[votes.annotator_N, true, votes.label_N]
        log_joint_IL[:, true] = np.bincount(votes.item_N, log_N, minlength=items)
    log_joint_IL += np.log(prior_L)
    known_I = gold_I != UNKNOWN
    log_joint_IL[known_I[:, None] & (gold_I[:, None] != np.arange(labels))] = -np.inf
    log_total_I = np.logaddexp.reduce(log_joint_IL, axis=1)
    log_prior = (_start_counts(labels) * log_confusion_ALL).sum() + SEEN * np.log(prior_L).sum()
    return np.exp(log_joint_IL - log_total_I[:, None]), float(log_total_I.sum() + log_prior)


def _start_counts(labels: int) -> Floats:
    """(L, L): the pseudo-votes of an annotator of whom nothing is known."""
    return WRONG + (RIGHT - WRONG) * np.eye(labels)
