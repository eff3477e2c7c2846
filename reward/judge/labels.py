"""In-context classification: a few solved cases in the prompt, and how likely each label follows.

    LLM(I, f(x_1, y_1), ..., f(x_k, y_k), f(x_k+1, _)) -> y

I is the instruction and f the format of a case; the last answer stays empty (Brown et al. 2020,
arXiv:2005.14165, section 2). A label may have several tokens: its score is the sum of theirs.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.batches import Item, micro_batches
from align.data.errors import UserError
from align.policy.logprobs import response_logprobs, text_batch
from align.reward.judge.letters import Floats


def few_shot_prompt(instruction: str, cases: Sequence[tuple[str, str]], query: str) -> str:
    """The instruction, the solved cases (x, y) in their order, and the query without an answer."""
    solved = [f"Input: {x}\nOutput: {y}" for x, y in cases]
    return "\n\n".join([instruction, *solved, f"Input: {query}\nOutput:"])


@torch.no_grad()
def label_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    labels: Sequence[str],
    max_tokens: int = 8192,
) -> Floats:
    """log p(label | prompt) in nats: over its tokens t, the sum of log p(t | prompt, those before).

    A label is what follows the prompt to the letter: after `Output:` it begins with a space. Not
    divided by length, so of labels with unlike lengths the shorter ones have it easier. A forward
    pass takes up to `max_tokens` tokens. Raises: UserError for a label without tokens.
    """
    prompt_ids: list[int] = tokenizer(prompt)["input_ids"]
    ids: list[list[int]] = [tokenizer(x, add_special_tokens=False)["input_ids"] for x in labels]
    logprobs = np.empty(len(labels))
    for label, label_ids in zip(labels, ids, strict=True):
        if not label_ids:  # its log-probability would be 0, above all others
            raise UserError(f"label {label!r} has no tokens in this tokenizer: give another label")
    items = [Item(rows=1, length=len(prompt_ids) + len(label)) for label in ids]
    for places in micro_batches(items, max_tokens, ranks=1)[0]:
        batch = text_batch([prompt_ids] * len(places), [ids[i] for i in places], model.device)
        logprobs_BT, _ = response_logprobs(model, batch, temperature=1.0)
        logprobs[places] = logprobs_BT.sum(dim=1).double().cpu().numpy()
    return logprobs
