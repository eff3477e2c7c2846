"""Trains the base model that ships in `policy/embedded`, on children's stories.

    python -m align.pipeline.pretrain --stories DIR --teacher DIR --out policy/embedded

The text is TinyStories, enlarged with stories that a larger-vocabulary teacher of the same kind
writes. The tokenizer is our own byte-level BPE: it loses no character of any language, which the
teacher's does. The corpus stays in the build folder; only tokenizer and weights are kept.
About 25 minutes on 2 CPU cores. Users never need to run this.
"""

import argparse
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from align.data.demo import demo_instructions

SPECIAL_TOKENS = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
PAD, BEGIN, END = 0, 1, 2
VOCABULARY = 1024
CONTEXT = 512  # tokens
BATCH = 2  # contexts
TEACHER_TEMPERATURE = 0.8
SEPARATOR = "<|endoftext|>"

CHAT_TEMPLATE = """\
{{- '<|begin|>' }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role: ' + message['role']) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""

# Some stories have curly quotes; in others these were UTF-8 that was once read as cp1252.
ASCII = {
    **{"\u00e2\u20ac\u0153": '"', "\u00e2\u20ac\u2122": "'", "\u00e2\u20ac": '"'},
    **{"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"},
}


def main() -> None:
    """Read, sample, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stories", type=Path, required=True, help="folder of .txt files")
    parser.add_argument("--teacher", type=Path, required=True, help="model that writes more text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--build", type=Path, default=Path("build/pretrain"))
    parser.add_argument("--sampled", type=int, default=6000, help="stories asked of the teacher")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    stories = read_stories(options.stories)
    random.Random(options.seed).shuffle(stories)
    held_out, kept = stories[: len(stories) // 20], stories[len(stories) // 20 :]
    sampled = sampled_stories(options.teacher, options.sampled, options.build / "sampled.txt")
    print(
        f"stories: {len(kept)} read, {len(sampled)} sampled, {len(held_out)} held out", flush=True
    )

    tokenizer = train_tokenizer(kept + demo_texts())
    training = token_stream(tokenizer, kept + sampled)
    validation = token_stream(tokenizer, held_out)
    print(f"tokens: {len(training)} for training, {len(validation)} held out", flush=True)

    torch.manual_seed(options.seed)
    model = build_model()
    train(model, training, validation, options.steps)
    loss = held_out_loss(model, validation)
    print(f"held-out loss {loss:.3f} nats per token", flush=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


def read_stories(folder: Path) -> list[str]:
    """Stories end at a separator; in a file without one, at a single line break."""
    stories = []
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        for found, plain in ASCII.items():
            text = text.replace(found, plain)
        pieces = text.split(SEPARATOR) if SEPARATOR in text else re.split(r"(?<!\n)\n(?!\n)", text)
        stories += [tidy(piece) for piece in pieces if len(piece) > 200]
    return list(dict.fromkeys(stories))


def tidy(story: str) -> str:
    """One line break between paragraphs, no space around them."""
    return "\n".join(line.strip() for line in story.strip().splitlines() if line.strip())


def sampled_stories(teacher: Path, count: int, cache: Path) -> list[str]:
    """The teacher's stories; sampled once, then read back."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(SEPARATOR.join(sample_stories(teacher, count)), encoding="utf-8")
    return cache.read_text(encoding="utf-8").split(SEPARATOR)


def sample_stories(folder: Path, count: int) -> list[str]:
    """Finished stories by the teacher."""
    teacher = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stories: list[str] = []
    while len(stories) < count:
        finished = sample_finished(teacher, tokenizer.bos_token_id, tokenizer.eos_token_id)
        stories += [tidy(str(tokenizer.decode(ids, skip_special_tokens=True))) for ids in finished]
        print(f"sampled {len(stories)} of {count} stories", flush=True)
    return stories[:count]


@torch.inference_mode()
def sample_finished(teacher: LlamaForCausalLM, begin: int, end: int) -> list[Tensor]:
    """One batch; a row that ends leaves it, a row that does not end in time is dropped."""
    rows, cache, finished = torch.full((256, 1), begin), DynamicCache(), list[Tensor]()
    while len(rows) > 0 and rows.shape[1] <= 256:
        logits = teacher(input_ids=rows[:, -1:], past_key_values=cache).logits[:, -1]
        drawn = torch.multinomial(torch.softmax(logits / TEACHER_TEMPERATURE, dim=-1), 1)
        rows, alive = torch.cat([rows, drawn], dim=1), drawn[:, 0] != end
        if not alive.all():
            finished += rows[~alive]
            rows = rows[alive]
            cache.batch_select_indices(alive.nonzero()[:, 0])
    return finished


def demo_texts() -> list[str]:
    """The demo's own words, so that its names and places become single tokens."""
    rows = demo_instructions(2000, seed=0)
    return [turn["content"] for row in rows for turn in row["prompt"] + row["completion"]]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; a line break is always a token of its own.

    So a rendered prompt, which ends in one, is tokenized alike whatever answer follows it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[PAD],
        bos_token=SPECIAL_TOKENS[BEGIN],
        eos_token=SPECIAL_TOKENS[END],
        additional_special_tokens=SPECIAL_TOKENS[END + 1 :],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def token_stream(tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> Tensor:
    """All stories in one row: `<|begin|>` story `<|end|>`."""
    encoded = tokenizer(stories, add_special_tokens=False)["input_ids"]
    return torch.tensor([token for ids in encoded for token in (BEGIN, *ids, END)])


def build_model() -> LlamaForCausalLM:
    """A small Llama: few layers, because decoding on a CPU pays per layer."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, training: Tensor, validation: Tensor, steps: int) -> None:
    """AdamW, warm-up, then a cosine to nothing."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=2.5e-3, betas=(0.9, 0.95), weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    batches, started = random_batches(training), time.monotonic()
    for step in range(1, steps + 1):
        loss = next_token_loss(model, next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 250 == 0:
            seconds = time.monotonic() - started
            held_out = held_out_loss(model, validation)
            print(f"{step=} {loss=:.3f} {held_out=:.3f} {seconds=:.0f}", flush=True)


def random_batches(stream: Tensor) -> Iterator[Tensor]:
    """Epochs over the stream in random order, each cut at another offset."""
    while True:
        offset = int(torch.randint(CONTEXT, ()))
        blocks = stream[offset:].unfold(0, CONTEXT + 1, CONTEXT)
        yield from blocks[torch.randperm(len(blocks))].split(BATCH)


def next_token_loss(model: LlamaForCausalLM, blocks: Tensor) -> Tensor:
    """Mean over tokens, in nats."""
    logits = model(input_ids=blocks[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, stream: Tensor) -> float:
    """Mean over whole contexts of the held-out stream."""
    blocks = stream.unfold(0, CONTEXT + 1, CONTEXT)
    losses = [next_token_loss(model, batch) * len(batch) for batch in blocks.split(BATCH)]
    return float(torch.stack(losses).sum()) / len(blocks)


if __name__ == "__main__":
    main()
