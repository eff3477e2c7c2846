"""A conversation with a causal language model, sampled on this machine."""

from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer
from transformers.utils import logging

from align.data.chat import encode_prompt
from align.data.errors import UserError
from align.data.messages import Message
from align.policy.config import ModelConfig
from align.policy.model import load_causal_lm, load_tokenizer

MAX_ANSWER = 512
"""Tokens; a model with a short context leaves half of it to the answer."""


class Conversation:
    """Turns of a user and a model; the oldest ones go when the context is full."""

    def __init__(self, folder: str) -> None:
        """Load the model. Raises UserError when it cannot be read."""
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # `ask` itself says when a message is too long
        config = ModelConfig(path=folder)
        self._tokenizer = load_tokenizer(folder, config)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Any, because the type of transformers' models does not know `generate`.
        self._model: Any = load_causal_lm(folder, config)
        self._model.to(self._device)  # type: ignore[arg-type] # a decorator hides `self`
        self._context: int = self._model.config.max_position_embeddings
        self._messages: list[Message] = []
        self._prompt_ids: list[int] = []
        self.temperature = 0.7

    def reset(self) -> None:
        """Forget all turns."""
        self._messages = []

    def ask(self, text: str) -> int:
        """Add a message of the user; returns how many old turns no longer fit and were dropped.

        Raises UserError, and changes nothing, when the message alone is too long.
        """
        room = self._context - min(MAX_ANSWER, self._context // 2)
        messages: list[Message] = [*self._messages, {"role": "user", "content": text}]
        ids = encode_prompt(self._tokenizer, messages)
        while len(ids) > room and len(messages) > 2:
            messages = messages[2:]  # a question and its answer
            ids = encode_prompt(self._tokenizer, messages)
        if len(ids) > room:
            raise UserError(f"this message has {len(ids)} tokens; the model reads at most {room}")
        dropped = (len(self._messages) + 1 - len(messages)) // 2
        self._messages, self._prompt_ids = messages, ids
        return dropped

    def answer(self) -> str:
        """Print the model's answer word by word as it is sampled, and remember it."""
        prompt = torch.tensor([self._prompt_ids], device=self._device)
        streamer = TextStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        try:
            output = self._model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self._generation_config(),
                streamer=streamer,
            )
        except KeyboardInterrupt:
            self._messages = self._messages[:-1]
            raise
        ids = output[0, len(self._prompt_ids) :]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        self._messages = [*self._messages, {"role": "assistant", "content": text}]
        return text

    def _generation_config(self) -> GenerationConfig:
        ends = self._model.generation_config.eos_token_id or []
        eos = self._tokenizer.eos_token_id
        return GenerationConfig(
            do_sample=self.temperature > 0,
            temperature=self.temperature or None,
            top_k=0 if self.temperature else None,
            top_p=1.0 if self.temperature else None,
            max_new_tokens=min(MAX_ANSWER, self._context - len(self._prompt_ids)),
            eos_token_id=sorted({eos, *(ends if isinstance(ends, list) else [ends])}),
            # Training may have saved the model with its cache off.
            use_cache=True,
            # One row is never padded, but generate warns without a pad id.
            pad_token_id=eos,
        )
