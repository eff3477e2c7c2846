"""The losses of reward modelling, on scores of answers.

Every loss reads score differences alone, so the derivatives by the scores of a prompt sum to 0.

Shapes: P preference pairs, B answers, S choices of one answer among several, R rules.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def preference_loss(
    chosen_P: Tensor, rejected_P: Tensor, target_prob_P: Tensor, margin_P: Tensor
) -> Tensor:
    """-t log sigmoid(d - m) - (1 - t) log sigmoid(m - d) per pair, with d = r_chosen - r_rejected.

    t = 1/2 is a tie and pulls d to 0. A margin m asks a certain preference for more than its sign
    (Touvron et al. 2023, arXiv:2307.09288, eq. 2). Source: Bradley and Terry 1952, as used by
    Stiennon et al. 2020 (arXiv:2009.01325), section 3.4.
    """
    difference_P = chosen_P - rejected_P - margin_P
    return -(
        target_prob_P * logsigmoid(difference_P) + (1 - target_prob_P) * logsigmoid(-difference_P)
    )


def choice_loss(scores_B: Tensor, winner_S: Tensor, candidates_SB: Tensor) -> Tensor:
    """log sum_j exp(r_j) - r_winner over the candidates j of each choice, the winner among them.

    The best of K answers is one choice (Ziegler et al. 2019, arXiv:1909.08593, eq. 1). A ranking is
    K - 1 of them, the best of those that are left each time (Plackett 1975). Between two answers
    it is the preference loss at t = 1.
    """
    left_out = torch.finfo(scores_B.dtype).min
    candidates = torch.where(candidates_SB, scores_B, left_out)
    return candidates.logsumexp(dim=1) - scores_B[winner_S]


def centering_loss(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """(r_chosen + r_rejected)^2 per pair: fixes the constant that the preference leaves free.

    Source: Eisenstein et al. 2023 (arXiv:2312.09244), section 3.
    """
    return (chosen_P + rejected_P) ** 2


def violation_loss(logits_B: Tensor, severity_B: Tensor) -> Tensor:
    """Cross-entropy of p = sigmoid(logit), that a rule is broken, with (severity - 1) / 4.

    Severity goes from 1, clearly follows, to 5, clearly breaks. Source: Glaese et al. 2022
    (Sparrow, arXiv:2209.14375); the scale is ours.
    """
    return binary_cross_entropy_with_logits(logits_B, (severity_B - 1) / 4, reduction="none")


def compliance(logits_RB: Tensor) -> Tensor:
    """Mean over the rules of log(1 - p broken), (B): 0 where all rules are surely kept."""
    return logsigmoid(-logits_RB).mean(dim=0)
