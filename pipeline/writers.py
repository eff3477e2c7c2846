"""Language models that write after a prompt: one on this machine, or one behind an endpoint."""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig

from align.data.chat import encode_prompt
from align.data.errors import UserError
from align.data.generated.sampling import Generate, Sampling, Written
from align.data.messages import user
from align.pipeline.progress import note
from align.policy.config import ModelConfig
from align.policy.model import freeze, load_causal_lm, load_tokenizer
from align.reward.judge.posting import Declined, Endpoint, once_each, post


def local_writer(path: str, seed: int) -> Generate:
    """A causal model, asked through its chat template. Raises: UserError if it cannot be read."""
    config = ModelConfig(path=path)
    tokenizer = load_tokenizer(path, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = freeze(load_causal_lm(path, config)).to(device)
    torch.manual_seed(seed)

    def write(prompts: Sequence[str], sampling: Sampling) -> list[Written]:
        return [_written(model, tokenizer, prompt, sampling, device) for prompt in prompts]

    return write


def _written(
    model: Any, tokenizer: Any, prompt: str, sampling: Sampling, device: torch.device
) -> Written:
    ids = torch.tensor([encode_prompt(tokenizer, user(prompt))], device=device)
    room = model.config.max_position_embeddings - ids.shape[1]
    if room <= 0:
        raise UserError(f"a prompt of {ids.shape[1]} tokens leaves the model no room to answer")
    count = min(sampling.max_tokens, room)
    chances: dict[str, Any] = {"do_sample": sampling.do_sample}
    if sampling.do_sample:
        chances |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    generation = GenerationConfig(
        max_new_tokens=count,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **chances,
    )
    with torch.no_grad():
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=generation
        )
    answer = output[0, ids.shape[1] :]
    text = str(tokenizer.decode(answer, skip_special_tokens=True))
    return _stopped(text, sampling, finished=len(answer) < count)


def endpoint_writer(endpoint: Endpoint) -> Generate:
    """A server of chat completions: vLLM's, or any that is compatible with OpenAI's."""
    waiting, heard = once_each(endpoint, note), threading.Event()

    def write(prompts: Sequence[str], sampling: Sampling) -> list[Written]:
        stop = threading.Event()

        def ask(prompt: str) -> Written:
            body = _body(endpoint.model, prompt, sampling)
            read = partial(_choice, endpoint)
            try:
                text, finished = post(
                    endpoint, "chat/completions", body, stop, read, waiting, heard
                )
            except Declined:
                return Written("", False)
            return _stopped(text, sampling, finished)

        with ThreadPoolExecutor(min(endpoint.workers, max(len(prompts), 1))) as workers:
            try:
                return list(workers.map(ask, prompts))
            finally:
                stop.set()

    return write


def _body(model: str, prompt: str, sampling: Sampling) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": user(prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature if sampling.do_sample else 0,
        "top_p": sampling.top_p,
    }
    return body | ({"stop": list(sampling.stop)} if sampling.stop else {})


def _choice(endpoint: Endpoint, text: str) -> tuple[str, bool]:
    """What a chat completion says, and whether it came to its end. Raises: UserError."""
    try:
        choice = json.loads(text)["choices"][0]
        return choice["message"]["content"] or "", choice["finish_reason"] != "length"
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{endpoint.url}: replied with no chat completion: check the url") from None


def _stopped(text: str, sampling: Sampling, finished: bool) -> Written:
    """The text up to the first stop; a server may have stopped there already."""
    places = [text.find(stop) for stop in sampling.stop if stop in text.lstrip("\n")]
    ends = [place for place in places if place > 0]
    return Written(text[: min(ends)], True) if ends else Written(text, finished)
