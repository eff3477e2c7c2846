"""One self-contained HTML page about instructions: numbers by source, and examples in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from align.pipeline.page import Headline, percent, write_page

NAMED = ("tasks", "templates", "licenses")
MOST_EXAMPLES = 60
EACH = 2
"""Examples of a wording of a source."""
CONTEXT = 8
"""Tokens before one that decide how it is written: spaces, and bytes of one letter."""


@dataclass(frozen=True)
class Token:
    """A piece of text; several tokens where only together they make a letter."""

    text: str
    learnt: bool


@dataclass(frozen=True)
class RenderedExample:
    """A row as the model sees it."""

    title: str
    note: str
    tokens: list[Token]


def write_data_page(
    path: Path, name: str, report: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write the page of a `build.json` to `path`."""
    sources = report["sources"]
    tokens = sum(source["tokens"] for source in sources)
    write_page(
        path,
        "data_inspect.html.jinja",
        name=name,
        headlines=[
            Headline("Rows to learn", f"{report['rows']:,}", "in one pass"),
            Headline("Tokens", f"{tokens:,}", "prompts included"),
            Headline("Held out", f"{report['held_out']:,}", "rows for evaluation"),
            Headline("Cut", f"{report['cut']:,}", "answers longer than data.max_length"),
            Headline("Left out", f"{report['too_long']:,}", "prompts too long"),
        ],
        sources=[
            _shared(source, tokens)
            | {
                key: {name: _shared(of, tokens) for name, of in source[key].items()}
                for key in NAMED
            }
            for source in sources
        ],
        overlap=report["overlap"],
        examples=[
            _rendered(source["source"], example, tokenizer)
            for source in sources
            for example in _few_of_each_wording(source["examples"])
        ][:MOST_EXAMPLES],
    )


def _shared(of: dict[str, Any], tokens: int) -> dict[str, Any]:
    return {**of, "share": percent(of["tokens"] / tokens if tokens else None)}


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[tuple[str, int]]:
    """The text cut where tokens meet, and how many tokens each piece is made of."""
    pieces: list[tuple[str, int]] = []
    start = 0
    for end in range(1, len(ids) + 1):
        first = max(0, start - CONTEXT)
        before = str(tokenizer.decode(ids[first:start]))
        text = str(tokenizer.decode(ids[first:end])).removeprefix(before)
        if text.endswith("\ufffd") and end < len(ids):
            continue  # the next token has the rest of the letter
        pieces.append((text, end - start))
        start = end
    return pieces


def _few_of_each_wording(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    shown: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for example in examples:
        shown.setdefault((example["task_id"], example["template_id"]), []).append(example)
    return [example for group in shown.values() for example in group[:EACH]]


def _rendered(
    source: str, example: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> RenderedExample:
    prompt, answer = example["prompt_ids"], example["completion_ids"]
    tokens = [
        Token(text, learnt)
        for ids, learnt in ((prompt, False), (answer, True))
        for text, _ in token_texts(tokenizer, ids)
    ]
    counts = f"{len(prompt)} tokens masked, {len(answer)} learnt"
    cut = "; the answer is cut" if example["truncated"] else ""
    title = f"{source} · {example['task_id']} · {example['template_id']}"
    return RenderedExample(title, f"{counts}{cut}; licence {example['license']}", tokens)
