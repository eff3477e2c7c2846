"""A pad token of its own for a model that is read at its last token."""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def own_pad_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Give tokenizer and model a pad token that is not EOS.

    Stock classes read the score at the last id that is not the pad id: with pad == eos that is
    the token before EOS (huggingface/trl#3091).
    """
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": "<|align_pad|>"})
    if len(tokenizer) > model.config.vocab_size:
        known = model.config.vocab_size
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        # Nobody attends to padding. Random rows, which LoRA freezes, would not come back on resume.
        embeddings: Any = model.get_input_embeddings()
        with torch.no_grad():
            embeddings.weight[known:] = 0
    model.config.pad_token_id = tokenizer.pad_token_id
