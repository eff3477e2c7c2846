"""A conversation with a causal language model, sampled on this machine."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList, TextStreamer
from transformers.utils import logging

from align.data.chat import encode_prompt
from align.data.errors import UserError
from align.data.messages import Message
from align.pipeline.chat import Manner
from align.policy.config import ModelConfig
from align.policy.model import load_causal_lm, load_tokenizer
from align.policy.sample import at_stop_text

MAX_ANSWER = 512
"""Tokens; a model with a short context leaves half of it to the answer."""


class Conversation:
    """Turns of a user and a model; the oldest ones go when the context is full."""

    def __init__(self, folder: str, manner: Manner) -> None:
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
        self.manner = manner

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
                stopping_criteria=StoppingCriteriaList([self._at_stop_text]),
            )
        except KeyboardInterrupt:
            self._messages = self._messages[:-1]
            raise
        ids = output[0, len(self._prompt_ids) :]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        self._messages = [*self._messages, {"role": "assistant", "content": text}]
        return text

    def _at_stop_text(self, ids_BL: Tensor, _: Tensor) -> Tensor:
        answer_BT, texts = ids_BL[:, len(self._prompt_ids) :], self.manner.stop
        if not texts or answer_BT.shape[1] < self.manner.min_new_tokens:
            return torch.zeros(len(ids_BL), dtype=torch.bool, device=ids_BL.device)
        return at_stop_text(answer_BT, texts, self._tokenizer)

    def _generation_config(self) -> GenerationConfig:
        ends = self._model.generation_config.eos_token_id or []
        eos = self._tokenizer.eos_token_id
        manner, sampled = self.manner, self.manner.temperature > 0
        return GenerationConfig(
            do_sample=sampled,
            temperature=manner.temperature if sampled else None,
            top_k=manner.top_k if sampled else None,
            top_p=manner.top_p if sampled else None,
            min_new_tokens=manner.min_new_tokens or None,
            max_new_tokens=min(MAX_ANSWER, self._context - len(self._prompt_ids)),
            eos_token_id=sorted({eos, *(ends if isinstance(ends, list) else [ends])}),
            # Training may have saved the model with its cache off.
            use_cache=True,
            # One row is never padded, but generate warns without a pad id.
            pad_token_id=eos,
        )
