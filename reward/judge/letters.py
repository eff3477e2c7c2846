"""From the log-probabilities of answer letters to a distribution over options.

A judge is asked a multiple-choice question and the next token is read, not sampled:

    p(o) = mean over letter orders of  softmax over options of  log p(letter of o) - c(letter)

Language models prefer some letters whatever stands beside them, so an option gets every letter
equally often (Zheng et al. 2024, arXiv:2309.03882). c is 0, or log p(letter) where the question is
about nothing: contextual calibration (Zhao et al. 2021, arXiv:2102.09690, section 5). They take a
softmax of p / p_cf; we normalise it, so that a content-free answer comes out exactly uniform.

The classifier is the GPT-4 system card's rule-based reward model: an extra reward in PPO by the
option that the judge finds (OpenAI 2023, arXiv:2303.08774).

Shapes: N answers, P letter orders, K options, and as many letters.
"""

import math
import random
import string
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

LETTERS = string.ascii_uppercase

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def letter_orders(options: int, most: int, seed: int) -> Places:
    """(P, K): in order p, letter j stands beside option [p, j].

    All K! orders if they are at most `most`. Otherwise as many circles of K rotations as fit, at
    least one: every option still has every letter equally often.
    """
    if math.factorial(options) <= most:
        return np.array(list(permutations(range(options))))
    chance = random.Random(f"letter orders {options} {seed}")
    circles: dict[tuple[int, ...], None] = {}
    while len(circles) < max(1, most // options):
        circles[(0, *chance.sample(range(1, options), options - 1))] = None
    return np.array([circle[i:] + circle[:i] for circle in circles for i in range(options)])


def option_logprobs(
    letters_NPK: Floats, orders_PK: Places, content_free_PK: Floats | None = None
) -> Floats:
    """log p(option), (N, K), from log p(letter) in every order; finite if they are."""
    if content_free_PK is not None:
        letters_NPK = letters_NPK - content_free_PK
    letters_NPK = letters_NPK - _logsumexp(letters_NPK, axis=2)
    letter_of_option_PK = np.argsort(orders_PK, axis=1)
    options_NPK = np.take_along_axis(letters_NPK, letter_of_option_PK[None], axis=2)
    return (_logsumexp(options_NPK, axis=1) - math.log(len(orders_PK))).squeeze(1)


def expected_reward(logprobs_K: Floats, rewards_K: Floats) -> float:
    """R = sum over options of p(o) R[prompt class, o]."""
    return float(np.exp(logprobs_K) @ rewards_K)


def letter_mass(letters_NPK: Floats) -> float:
    """The mean probability that the judge answers with one of the letters at all."""
    return float(np.exp(letters_NPK).sum(axis=2).mean())


def letter_picks(letters_NPK: Floats) -> list[int]:
    """How often each letter was the likeliest, (K). Over balanced orders a judge that reads the
    options picks all letters about equally often, whatever it thinks of the answers."""
    picks = letters_NPK.argmax(axis=2).ravel()
    return [int(count) for count in np.bincount(picks, minlength=letters_NPK.shape[2])]


def _logsumexp(x: Floats, axis: int) -> Floats:
    return np.logaddexp.reduce(x, axis=axis, keepdims=True)
