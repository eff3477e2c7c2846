"""Messages to token ids, and which of them the model learns.

Only the template writes control tokens: one that stands in a text, such as `<|im_end|>`, is text.
"""

import re
from dataclasses import dataclass
from itertools import takewhile

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from align.data.errors import UserError
from align.data.messages import Message

BREAK = "\ufdd0"
"""Text on both sides is tokenised apart. Unicode never gives this character a meaning."""


@dataclass(frozen=True)
class Encoded:
    """A conversation in token ids; the loss is on the completion alone."""

    prompt_ids: list[int]
    completion_ids: list[int]
    """Ends with EOS unless it was cut."""
    truncated: bool = False


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: list[Message]) -> list[int]:
    """The prompt, up to where the assistant begins to speak."""
    return _ids(tokenizer, _render(tokenizer, prompt, add_generation_prompt=True))


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: list[Message], completion: list[Message]
) -> Encoded:
    """Prompt and completion tokenised apart.

    So a completion's ids follow the very prompt ids that the policy samples from: tokenising the
    joined text may merge tokens across the border (OpenRLHF#967 and verl#376 scored other ids
    than they trained on). The completion ends with its first EOS; templates add more behind it.
    """
    prompt_text = _render(tokenizer, prompt, add_generation_prompt=True)
    text = _render(tokenizer, [*prompt, *completion], add_generation_prompt=False)
    if not text.startswith(prompt_text):
        pairs = zip(prompt_text, text, strict=False)
        start = max(0, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) - 20)
        raise UserError(
            "the chat template renders a prompt differently once its answer follows; align needs "
            f"a template that only appends (it turned {prompt_text[start : start + 60]!r} into "
            f"{text[start : start + 60]!r})"
        )
    completion_ids = _ids(tokenizer, text[len(prompt_text) :])
    eos = tokenizer.eos_token_id
    end = completion_ids.index(eos) if eos in completion_ids else len(completion_ids)
    return Encoded(_ids(tokenizer, prompt_text), [*completion_ids[:end], eos])


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> list[Encoded]:
    """A text that is learnt as it is, in pieces of at most `max_length` tokens.

    Each piece is learnt after the token that begins a text (EOS where there is none), and the last
    one ends with EOS.
    """
    bos = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if bos is None else bos
    ids = [*_ids(tokenizer, _plain(tokenizer, text)), tokenizer.eos_token_id]
    room = max_length - 1
    return [Encoded([first], ids[start : start + room]) for start in range(0, len(ids), room)]


def truncate(encoded: Encoded, max_length: int) -> Encoded:
    """Cut the end of the completion so that the whole fits; the prompt is never cut."""
    room = max(0, max_length - len(encoded.prompt_ids))
    if len(encoded.completion_ids) <= room:
        return encoded
    return Encoded(encoded.prompt_ids, encoded.completion_ids[:room], truncated=True)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], *, add_generation_prompt: bool
) -> str:
    plain = [one | {"content": _plain(tokenizer, one["content"])} for one in messages]
    try:
        text = tokenizer.apply_chat_template(
            plain, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        reason = " ".join(str(error).split())
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the chat template refuses a conversation of {roles}: {reason}; change the data or "
            "give another template as model.chat_template"
        ) from error
    assert isinstance(text, str)
    return text


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text with a break in every control token that it holds."""
    held = [
        re.escape(token.content)
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and token.content in text
    ]
    if not held:
        return text
    return re.sub(f"(?={'|'.join(held)})(.)", rf"\1{BREAK}", text, flags=re.DOTALL)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # Not verbose: a text may be longer than the model's context before it is cut.
    return [
        token
        for part in text.split(BREAK)
        for token in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
    ]
