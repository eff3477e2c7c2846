"""One token from the logits of each row, by inverting the cumulative distribution.

Shapes: B rows, V vocabulary.
"""

import torch
from torch import Tensor


def draw(
    logits_BV: Tensor,
    noise_B: Tensor,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    banned_id: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens, and their log-probabilities at the temperature in nats, both (B,).

    `noise_B` is uniform in [0, 1). Top-k, top-p and a banned token change which tokens can be
    drawn; the log-probabilities are those of the whole distribution all the same.
    """
    logits_BV = logits_BV.float()
    if temperature != 1:
        logits_BV = logits_BV / temperature
    # exp is the dear part, so there is one: probabilities are these weights over their sum.
    logits_BV = logits_BV - logits_BV.amax(dim=-1, keepdim=True)
    weights_BV = logits_BV.exp()
    cumulative_BV = weights_BV.cumsum(dim=-1, dtype=torch.float64)
    total_B1 = cumulative_BV[:, -1:]
    allowed_BV = cumulative_BV
    if banned_id is not None or top_k is not None or top_p is not None:
        filtered_BV = filtered(weights_BV, top_k, top_p, banned_id)
        allowed_BV = filtered_BV.cumsum(dim=-1, dtype=torch.float64)
    tokens_B1 = torch.searchsorted(allowed_BV, noise_B[:, None] * allowed_BV[:, -1:], right=True)
    logprobs_B1 = logits_BV.gather(1, tokens_B1) - total_B1.log().float()
    return tokens_B1.squeeze(1), logprobs_B1.squeeze(1)


def filtered(
    weights_BV: Tensor, top_k: int | None, top_p: float | None, banned_id: int | None
) -> Tensor:
    """Weights of the tokens that may be drawn, 0 for the others.

    First the banned token goes, then all but the `top_k` heaviest (Fan et al. 2018,
    arXiv:1805.04833), then all but the fewest that hold `top_p` of what is left (Holtzman et al.
    2020, arXiv:1904.09751).
    """
    weights_BV = weights_BV.clone()
    if banned_id is not None:
        weights_BV[:, banned_id] = 0
    sorted_BV, order_BV = weights_BV.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        sorted_BV[:, top_k:] = 0
    if top_p is not None:
        heavier_BV = sorted_BV.cumsum(dim=-1, dtype=torch.float64) - sorted_BV
        sorted_BV[heavier_BV >= top_p * sorted_BV.sum(dim=-1, keepdim=True)] = 0
    return torch.zeros_like(weights_BV).scatter(1, order_BV, sorted_BV)
