"""The losses of reward modelling, on scores of answers.

Shapes: P preference pairs.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_loss(
    chosen_P: Tensor, rejected_P: Tensor, target_prob_P: Tensor, margin_P: Tensor
) -> Tensor:
    """-t log sigmoid(d - m) - (1 - t) log sigmoid(m - d) per pair, with d = r_chosen - r_rejected.

    t = 1/2 is a tie and pulls d to 0. The margin (Touvron et al. 2023, arXiv:2307.09288, eq. 2)
    asks a certain preference for more than its sign, so it counts at t = 1 alone. Source:
    Bradley and Terry 1952, as used by Stiennon et al. 2020 (arXiv:2009.01325), section 3.4.
    """
    certain_P = (target_prob_P == 1).to(margin_P.dtype)
    difference_P = chosen_P - rejected_P - margin_P * certain_P
    return -(
        target_prob_P * logsigmoid(difference_P) + (1 - target_prob_P) * logsigmoid(-difference_P)
    )


def centering_loss(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """(r_chosen + r_rejected)^2 per pair: fixes the constant that the preference leaves free.

    Source: Eisenstein et al. 2023 (arXiv:2312.09244), section 3.
    """
    return (chosen_P + rejected_P) ** 2
