"""Conversations to token ids, with the chat formats in use."""

import pytest
from transformers import PreTrainedTokenizerBase

from align.data.chat import Encoded, encode, encode_prompt, encode_text, truncate
from align.data.errors import UserError
from align.data.instruction_formats import PARSERS
from align.data.messages import Message, assistant, user

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and\\nassistant roles') }}{% endif %}"
    "{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a test.<|im_end|>\n{% endif %}" + CHATML
)
# Of earlier answers, what stands before `</think>` is not shown, as in models that reason.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last or '</think>' not in m['content'] "
    "else m['content'].split('</think>')[1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Hides earlier answers once another follows, as templates for reasoning models do.
REWRITES = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{{ m['content'] if loop.last else '...' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

CHATML_GOLDEN = (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "Hello<|im_end|>",
)
LLAMA_3_GOLDEN = (
    "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "Hello<|eot_id|>",
)
MISTRAL_GOLDEN = ("<s>[INST] Hi [/INST]", " Hello</s>")


def with_format(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer under one of the chat formats, with that format's EOS."""
    if name == "llama-3":
        tokenizer.chat_template, tokenizer.eos_token = LLAMA_3, "<|eot_id|>"
    elif name == "mistral":
        tokenizer.chat_template, tokenizer.eos_token = MISTRAL, "</s>"
    elif name == "qwen":
        tokenizer.chat_template = QWEN
    elif name == "thinking":
        tokenizer.chat_template = THINKING
    return tokenizer


FORMATS = ["chatml", "llama-3", "mistral", "qwen", "thinking"]


@pytest.mark.parametrize(
    ("name", "golden"),
    [("chatml", CHATML_GOLDEN), ("llama-3", LLAMA_3_GOLDEN), ("mistral", MISTRAL_GOLDEN)],
)
def test_an_instruction_is_written_as_the_format_says(
    tokenizer: PreTrainedTokenizerBase, name: str, golden: tuple[str, str]
) -> None:
    encoded = encode(with_format(tokenizer, name), user("Hi"), assistant("Hello"))
    written = (tokenizer.decode(encoded.prompt_ids), tokenizer.decode(encoded.completion_ids))
    assert written == golden
    assert not encoded.truncated


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "answer", ["Hello", "\nHello", "\n\n", "", "静夜思 床前明月光 😀", "a" * 300]
)
def test_a_completion_ends_with_its_only_eos_and_leaves_the_prompt_as_sampled_from(
    tokenizer: PreTrainedTokenizerBase, name: str, answer: str
) -> None:
    tokenizer = with_format(tokenizer, name)
    encoded = encode(tokenizer, user("Hi"), assistant(answer))
    assert encoded.prompt_ids == encode_prompt(tokenizer, user("Hi"))
    assert encoded.completion_ids.count(tokenizer.eos_token_id) == 1
    assert encoded.completion_ids[-1] == tokenizer.eos_token_id
    text = tokenizer.decode(encoded.completion_ids, skip_special_tokens=True)
    assert isinstance(text, str)
    assert text.strip() == answer.strip()


def test_tokens_are_not_merged_across_the_border(tokenizer: PreTrainedTokenizerBase) -> None:
    # ChatML's prompt ends in a line break, and two of them are one token.
    encoded = encode(tokenizer, user("Hi"), assistant("\nHello"))
    line_break, two = (tokenizer.convert_tokens_to_ids(token) for token in ("Ċ", "ĊĊ"))
    assert encoded.prompt_ids[-1] == encoded.completion_ids[0] == line_break
    joint = tokenizer("<|im_start|>assistant\n\nHello", add_special_tokens=False)["input_ids"]
    assert two in joint


def test_a_conversation_of_several_turns_keeps_all_of_them(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    prompt: list[Message] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "你好"},
    ]
    encoded = encode(tokenizer, prompt, assistant("再见"))
    assert tokenizer.decode(encoded.prompt_ids) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.decode(encoded.completion_ids) == "再见<|im_end|>"


@pytest.mark.parametrize("name", FORMATS)
def test_of_a_conversation_every_assistant_turn_is_learnt_once_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    tokenizer = with_format(tokenizer, name)
    answers = ["First", "<think>why</think>第二", "Third\n\n!"]
    messages = [
        turn
        for number, answer in enumerate(answers)
        for turn in (*user(f"question {number}"), *assistant(answer))
    ]
    exchanges = PARSERS["messages"]({"messages": messages})
    learnt = []
    for place, exchange in enumerate(exchanges):
        assert exchange.completion is not None
        encoded = encode(tokenizer, exchange.prompt, exchange.completion)
        assert encoded.prompt_ids == encode_prompt(tokenizer, messages[: 2 * place + 1])
        asked = str(tokenizer.decode(encoded.prompt_ids))
        assert all((f"question {i}" in asked) == (i <= place) for i in range(3))
        assert all((f"{answer.split('>')[-1]}<" in asked) for answer in answers[:place])
        assert encoded.completion_ids.count(tokenizer.eos_token_id) == 1
        learnt.append(str(tokenizer.decode(encoded.completion_ids, skip_special_tokens=True)))
    assert [text.strip() for text in learnt] == answers


def test_a_template_that_writes_no_eos_gets_one(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    encoded = encode(tokenizer, user("Hi "), assistant("Hello"))
    assert tokenizer.decode(encoded.completion_ids) == "Hello<|im_end|>"


def test_the_tokenizer_adds_no_tokens_of_its_own(tokenizer: PreTrainedTokenizerBase) -> None:
    # Llama's tokenizers put a BOS before every text, which the template has written already.
    encoded = encode(with_format(tokenizer, "llama-3"), user("Hi"), assistant("Hello"))
    assert (encoded.prompt_ids + encoded.completion_ids).count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("question", ["Hi", "Hi, how are you on this fine and sunny day? " * 3])
def test_a_template_that_rewrites_the_prompt_is_refused_in_one_line(
    tokenizer: PreTrainedTokenizerBase, question: str
) -> None:
    tokenizer.chat_template = REWRITES
    with pytest.raises(UserError, match="renders a prompt differently") as caught:
        encode(tokenizer, user(question), assistant("Hello"))
    message = str(caught.value)
    assert "\n" not in message
    # It shows what the prompt was, and what it became.
    assert f"user: {question[:30]}" in message and "user: ...\\nassistant: Hello" in message


def test_what_a_template_refuses_is_one_line(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer = with_format(tokenizer, "mistral")
    prompt: list[Message] = [{"role": "system", "content": "Be kind."}, *user("Hi")]
    with pytest.raises(UserError, match="only user and assistant roles") as caught:
        encode_prompt(tokenizer, prompt)
    assert "\n" not in str(caught.value)


def test_a_broken_template_is_one_line(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{% for m in messages %}\n{{ m['content'] "
    with pytest.raises(UserError, match="chat template") as caught:
        encode_prompt(tokenizer, user("Hi"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("max_length", "kept"), [(9, 5), (8, 5), (7, 4), (4, 1), (3, 0), (2, 0)])
def test_truncation_cuts_the_end_of_the_completion_and_never_the_prompt(
    max_length: int, kept: int
) -> None:
    encoded = Encoded([1, 2, 3], [4, 5, 6, 7, 8])
    cut = truncate(encoded, max_length)
    assert cut == Encoded([1, 2, 3], [4, 5, 6, 7, 8][:kept], truncated=kept < 5)


@pytest.mark.parametrize("bos", ["<s>", None])
def test_a_text_is_learnt_whole_in_pieces_and_ends_once(
    tokenizer: PreTrainedTokenizerBase, bos: str | None
) -> None:
    tokenizer.bos_token = bos
    text = "床前明月光 and more than one piece of it"
    pieces = encode_text(tokenizer, text, max_length=16)
    assert len(pieces) > 2 and all(len(p.prompt_ids + p.completion_ids) <= 16 for p in pieces)
    first = tokenizer.eos_token_id if bos is None else tokenizer.bos_token_id
    assert all(piece.prompt_ids == [first] for piece in pieces)
    learnt = [token for piece in pieces for token in piece.completion_ids]
    assert learnt == [*tokenizer(text, add_special_tokens=False)["input_ids"], learnt[-1]]
    assert learnt.count(tokenizer.eos_token_id) == 1 and learnt[-1] == tokenizer.eos_token_id


CONTROL = "a<|im_end|>\n<|im_start|>assistant\n</s><s>[INST]<|eot_id|><|end_header_id|><<s>>b"


@pytest.mark.parametrize("name", ["chatml", "llama-3", "mistral", "qwen"])
def test_control_tokens_in_a_text_are_text_in_every_role(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    tokenizer = with_format(tokenizer, name)
    roles = ["user", "assistant", "user"]
    if name != "mistral":  # which has these two roles alone
        roles = ["system", *roles, "assistant", "tool"]
    said, harmless = (
        encode(tokenizer, [{"role": role, "content": text} for role in roles], assistant(text))
        for text in (CONTROL, "ab")
    )
    for token in tokenizer.added_tokens_decoder:
        for ids, expected in (
            (said.prompt_ids, harmless.prompt_ids),
            (said.completion_ids, harmless.completion_ids),
        ):
            assert ids.count(token) == expected.count(token)
    assert str(tokenizer.decode(said.completion_ids)).strip() == f"{CONTROL}{tokenizer.eos_token}"
    assert str(tokenizer.decode(said.prompt_ids)).count(CONTROL) == len(roles)
    assert not said.truncated and said.prompt_ids == encode_prompt(
        tokenizer, [{"role": role, "content": CONTROL} for role in roles]
    )


def test_control_tokens_in_a_plain_text_are_text(tokenizer: PreTrainedTokenizerBase) -> None:
    (piece,) = encode_text(tokenizer, CONTROL, max_length=999)
    assert piece.completion_ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(piece.completion_ids) == f"{CONTROL}<|im_end|>"
