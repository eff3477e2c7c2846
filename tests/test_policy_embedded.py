"""The model that ships with align: small, stock classes load it, it loses no text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from align.data.demo import demo_instructions

FOLDER = Path(__file__).parent.parent / "policy" / "embedded"
LARGEST = 4_000_000  # bytes, all files together

STORIES = (
    "Once upon a time, there was a little girl named Lily. She loved to play with her toys. "
    "One day, she found a big red ball in the park. She was very happy.",
    'Tom and his mom went to the store. Tom saw a toy car. He said, "Mom, can I have it?" '
    "His mom smiled and said yes.",
    "One day, a dog named Max was sad. He lost his bone. His friend helped him look for it. "
    "They found the bone under a tree and they were happy.",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(FOLDER)
    return loaded


@pytest.fixture(scope="module")
def model() -> Any:  # transformers types `generate` for its own classes only
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def test_it_is_small_and_holds_only_what_is_needed() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) <= LARGEST
    assert set(files) == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_model_and_tokenizer_agree(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    assert model.config.model_type == "llama" and model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size == 1024
    for name, token in (("pad", 0), ("bos", 1), ("eos", 2)):
        assert getattr(tokenizer, f"{name}_token_id") == token
        assert getattr(model.config, f"{name}_token_id") == token
        assert getattr(model.generation_config, f"{name}_token_id") == token
    names = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4, 5]
    assert set(names) == set(tokenizer.all_special_tokens)


@pytest.mark.parametrize(
    "text",
    [
        "1 + 1 = 2; 3*4 != 5 (50 %) #&@^~`|<>[]{}\\/",
        "春眠不覺曉。處處聞啼鳥。夜來風雨聲。花落知多少。",
        "日本語のテキスト 한국어 العربية עברית हिन्दी ไทย Ελληνικά Русский",
        "emoji 😀🎉 👩‍👩‍👧‍👦 🇺🇳 ❤️",
        "cafe\u0301 caf\u00e9 n\u0303 a\u0323\u0302",
        "  two leading spaces, two trailing  ",
        "\ttab\tand\ttab\t\t",
        "\nline\n\n\nbreaks\r\nof all\rkinds\n",
        "don 't do n't , . ! ?",
        "\u0000\ufeff\u200b\u2028\u00a0\u3000",
        "",
        " ",
        "\n",
    ],
)
def test_no_character_of_any_language_is_lost(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_every_character_of_unicode_survives(tokenizer: PreTrainedTokenizerBase) -> None:
    surrogates = range(0xD800, 0xE000)  # not characters
    points = [point for point in range(0x110000) if point not in surrogates]
    for start in range(0, len(points), 400):
        text = "".join(map(chr, points[start : start + 400]))
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_plain_text_gets_no_token_that_the_template_writes(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    ids = tokenizer(STORIES[0])["input_ids"]
    assert min(ids) > 5
    assert ids == tokenizer(STORIES[0], add_special_tokens=False)["input_ids"]


def test_the_chat_template_writes_every_turn_alike(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi {{ x }}\n there "},
        {"role": "assistant", "content": "Hello."},
    ]
    written = tokenizer.apply_chat_template(chat, tokenize=False)
    assert written == (
        "<|begin|><|system|>\nBe kind.<|end|>\n<|user|>\nHi {{ x }}\n there <|end|>\n"
        "<|assistant|>\nHello.<|end|>\n"
    )
    opened = tokenizer.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True)
    assert written == f"{opened}Hello.<|end|>\n"


def test_an_unknown_role_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(Exception, match="unknown role: cat"):
        tokenizer.apply_chat_template([{"role": "cat", "content": "Meow."}], tokenize=False)


@pytest.mark.parametrize("answer", ["Once", " Once", "\nOnce", "\n\n  Once", "", "\t"])
def test_a_rendered_prompt_has_the_same_tokens_whatever_answer_follows(
    tokenizer: PreTrainedTokenizerBase, answer: str
) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Tell a story."}], tokenize=False, add_generation_prompt=True
    )
    apart = tokenizer(prompt)["input_ids"] + tokenizer(answer)["input_ids"]
    assert tokenizer(f"{prompt}{answer}")["input_ids"] == apart


def test_the_demo_fits_into_64_tokens_an_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [row["completion"][0]["content"] for row in demo_instructions(1000, 0)]
    lengths = sorted(len(ids) for ids in tokenizer(texts)["input_ids"])
    assert 35 <= sum(lengths) / len(lengths) <= 50
    assert lengths[990] < 64


def test_it_knows_how_stories_go(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    losses = []
    for story in STORIES:
        ids = torch.tensor([[1, *tokenizer(story)["input_ids"], 2]])
        with torch.inference_mode():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert sum(losses) / len(losses) < 2.6  # nats per token; ln 1024 is 6.9


def test_it_writes_words_and_ends(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    torch.manual_seed(0)
    start = torch.ones((8, 1), dtype=torch.long)
    written = model.generate(
        start, attention_mask=start, do_sample=True, temperature=0.7, max_new_tokens=400
    )
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    assert (written == tokenizer.eos_token_id).any(dim=1).float().mean() > 0.5
    known = set(" ".join(STORIES).lower().split())
    words = " ".join(texts).lower().split()
    assert sum(word in known for word in words) / len(words) > 0.3
