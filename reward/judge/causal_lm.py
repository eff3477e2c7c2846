"""A causal language model on this machine as a judge: one forward pass a question, no sampling.

Only the logits behind the last token of a question are computed. Texts are right-padded and need
no mask, as in `policy/logprobs.py`.

Shapes: B questions in a batch, L tokens, U different last positions, V vocabulary, K letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.batches import Item, micro_batches
from align.data.chat import encode_prompt
from align.data.errors import UserError
from align.data.messages import Message, assistant, user
from align.policy.logprobs import text_batch
from align.reward.judge.asking import Replies
from align.reward.judge.letters import LETTERS, Floats


@dataclass(frozen=True)
class CausalJudge:
    """Implements `Judge` with a model and a tokenizer as `policy/model.py` loads them."""

    id: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int = 8192
    """Of one forward pass; a longer question has one to itself."""

    def ask(self, questions: Sequence[list[Message]], letters: int) -> Replies:
        """A question longer than the model's context has a problem."""
        ids_of_letters = letter_ids(self.tokenizer, letters)
        texts = [encode_prompt(self.tokenizer, question) for question in questions]
        context = self.model.config.max_position_embeddings
        problems = {
            place: f"the question has {len(ids)} tokens, {self.id} reads up to {context}"
            for place, ids in enumerate(texts)
            if len(ids) > context
        }
        fitting = [place for place in range(len(texts)) if place not in problems]
        logprobs_NK = np.full((len(texts), letters), np.nan)
        logprobs_NK[fitting] = next_token_logprobs(
            self.model, [texts[place] for place in fitting], ids_of_letters, self.max_tokens
        )
        return Replies(logprobs_NK, problems)


def letter_ids(tokenizer: PreTrainedTokenizerBase, letters: int) -> list[int]:
    """The token with which a reply of the letter begins: "A", " A" or whatever the chat template
    and the tokenizer make of it.

    Raises: UserError if that is not one token.
    """
    question = user("?")
    prompt_ids = encode_prompt(tokenizer, question)
    return [_letter_id(tokenizer, question, prompt_ids, letter) for letter in LETTERS[:letters]]


def _letter_id(
    tokenizer: PreTrainedTokenizerBase, question: list[Message], prompt_ids: list[int], letter: str
) -> int:
    # Prompt and reply tokenised together: apart, SentencePiece would add a space before the letter.
    text = tokenizer.apply_chat_template([*question, *assistant(letter)], tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = len(prompt_ids)
    reply = tokenizer.decode(ids[start : start + 1])
    assert isinstance(reply, str)
    if ids[:start] != prompt_ids or reply.lstrip() != letter:
        raise UserError(
            f"this model cannot judge by letters: in its chat template a reply of {letter!r} does "
            f"not begin with one token {letter!r} but with {reply!r}; give another judge, or "
            "another template as model.chat_template"
        )
    return ids[start]


@torch.no_grad()
def next_token_logprobs(
    model: PreTrainedModel, texts: Sequence[list[int]], token_ids: list[int], max_tokens: int
) -> Floats:
    """log p(token | text) in nats for each of the tokens, (N, K)."""
    logprobs_NK = np.empty((len(texts), len(token_ids)))
    items = [Item(rows=1, length=len(ids)) for ids in texts]
    for places in micro_batches(items, max_tokens, ranks=1)[0]:
        batch = text_batch([texts[place] for place in places], [[]] * len(places), model.device)
        # Texts of like length share a batch, so U is small, and 1 for one text in all its orders.
        positions_U, row_of_B = (batch.prompt_lengths_B - 1).unique(return_inverse=True)
        output = model(input_ids=batch.ids_RL, use_cache=False, logits_to_keep=positions_U)
        rows_B = torch.arange(len(places), device=model.device)
        logprobs_BV = output.logits[rows_B, row_of_B].float().log_softmax(dim=-1)
        logprobs_NK[places] = logprobs_BV[:, token_ids].double().cpu().numpy()
    return logprobs_NK
