"""What is often wrong with data and settings of fine-tuning, found before a run.

One function for each mistake, which yields findings; a clean set gives none. They look at the first
rows of each source only.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from align.data.chat import encode_prompt, encode_text
from align.data.errors import UserError
from align.data.exchanges import Instruction
from align.data.messages import Message
from align.data.overlap import RUN
from align.pipeline.config import RunConfig
from align.pipeline.data_overlap import EVALUATION, HELD_OUT
from align.pipeline.finding import Finding

ROWS = 20_000
"""Of each source."""
PROBED = 500
"""Rows whose letters are looked for in what the tokenizer makes of them."""
CONVERSATION: list[Message] = [
    {"role": "system", "content": "system-probe"},
    {"role": "user", "content": "user-probe"},
]


def template(tokenizer: PreTrainedTokenizerBase) -> Iterator[Finding]:
    """The chat template writes all that was said."""
    try:
        text = str(tokenizer.decode(encode_prompt(tokenizer, CONVERSATION)))
    except UserError:
        text = str(tokenizer.decode(encode_prompt(tokenizer, CONVERSATION[1:])))
    for message in CONVERSATION:
        if message["content"] not in text:
            said = f"the chat template leaves out the {message['role']} message"
            yield _warning("template", said, "give another one as model.chat_template")


def letters(tokenizer: PreTrainedTokenizerBase, rows: Iterator[Instruction]) -> Iterator[Finding]:
    """The tokenizer drops no letter of the data."""
    lost: set[str] = set()
    for row in islice(rows, PROBED):
        text = "".join(message["content"] for message in [*row.prompt, *(row.completion or [])])
        (piece,) = encode_text(tokenizer, text, max_length=10**9)
        kept = set(str(tokenizer.decode(piece.completion_ids)).casefold())
        lost |= {letter for letter in set(text.casefold()) - kept if not letter.isspace()}
    if lost:
        shown = " ".join(sorted(lost)[:8])
        said = f"the tokenizer loses {len(lost)} letters of the data, such as {shown}"
        yield _warning("tokenizer", said, "use a model whose tokenizer knows them")


def eos(tokenizer: PreTrainedTokenizerBase) -> Iterator[Finding]:
    """The template ends an answer with the token that sampling stops at."""
    answer: Message = {"role": "assistant", "content": "answer-probe"}
    text = tokenizer.apply_chat_template([CONVERSATION[1], answer], tokenize=False)
    if str(tokenizer.eos_token) not in str(text).partition(answer["content"])[2]:
        said = f"the chat template ends no answer with EOS, {tokenizer.eos_token}"
        fix = "align adds it in training; elsewhere set the EOS token that the template writes"
        yield _warning("EOS", said, fix)


def mask(report: Mapping[str, Any]) -> Iterator[Finding]:
    """More than a twentieth of what is read is learnt."""
    for source in report["sources"]:
        share = source["learnt"] / max(source["tokens_of_rows"], 1)
        if share < 0.05:
            said = f"{source['source']}: only {share:.1%} of the tokens are learnt"
            yield _warning("mask", said, "check which of its columns is the answer")


def length(report: Mapping[str, Any], config: RunConfig) -> Iterator[Finding]:
    """Few rows are cut or left out."""
    for source in report["sources"]:
        rows = source["rows"] + source["held_out"] + source["too_long"]
        if source["truncated"] > 0.05 * source["rows"]:
            said = f"{source['source']}: {source['truncated']} of {source['rows']} answers are cut"
            yield _warning("length", said, f"raise data.max_length ({config.data.max_length})")
        if source["too_long"] > 0.05 * rows:
            said = f"{source['source']}: {source['too_long']} of {rows} prompts are too long"
            fix = f"raise data.max_prompt_length ({config.data.max_prompt_length})"
            yield _warning("length", said, fix)


def duplicates(report: Mapping[str, Any], config: RunConfig) -> Iterator[Finding]:
    """Rows do not come twice, unless the mixture leaves copies out."""
    mixture = config.mixture.instructions
    if mixture is not None and mixture.dedup != "none":
        return
    for source in report["sources"]:
        if source["duplicates"] > 0.01 * source["rows"]:
            said = f"{source['source']}: {source['duplicates']} of {source['rows']} rows are copies"
            yield _warning("duplicates", said, "set mixture.instructions.dedup: exact, or near")


def leaks(report: Mapping[str, Any]) -> Iterator[Finding]:
    """What is evaluated is not learnt.

    What SFT holds out is of the sources that it learns: some of that may be near to training, and
    share long phrases with it.
    """
    for one in report["overlap"]["prompts"]:
        own = (one["first"], one["second"]) == ("SFT", f"SFT {HELD_OUT}")
        if not own and not one["second"].startswith(EVALUATION):
            continue
        if one["near"] > (0.05 * one["texts"] if own else 0):
            said = f"{one['near']} prompts of {one['first']} are near to ones of {one['second']}"
            fix = "take these prompts out of training"
            if own:
                fix = "set mixture.instructions.dedup: near, which holds out together what is near"
            yield _warning("leak", said, fix)
    for name, count in report["overlap"]["contaminated"].items():
        if name.startswith(EVALUATION) and count["found"] > 0.01 * count["texts"]:
            said = f"training has {RUN} words in a row of {count['found']} of {name}"
            yield _warning("leak", said, "take these rows out of training")


def imbalance(report: Mapping[str, Any]) -> Iterator[Finding]:
    """No source drowns the others, and no class of a task its other classes."""
    tokens = sum(source["tokens"] for source in report["sources"])
    for source in report["sources"]:
        if len(report["sources"]) > 1 and source["tokens"] > 0.9 * tokens:
            said = f"{source['source']}: {source['tokens'] / tokens:.0%} of all tokens"
            yield _warning("imbalance", said, "set mixture.instructions.rate_cap or temperature")
        for task, labels in source["labels"].items():
            most, least = max(labels.values()), min(labels.values())
            if most > 10 * least:
                said = f"{task}: the largest class has {most} rows, the smallest {least}"
                fix = "set mixture.instructions.max_rows_per_task and balance_classes"
                yield _warning("imbalance", said, fix)


def learning_rate(config: RunConfig, parameters: int) -> Iterator[Finding]:
    """Smaller than in pre-training: a third of what Kaplan et al. 2020 (arXiv:2001.08361, appendix
    D.6) found best there, 0.003239 - 0.0001395 ln N. Adapters take ten times as much, and so do
    models of less than ten million parameters, smaller than those that the rule was fitted on. Of a
    model of unknown size (0) it says nothing."""
    if not parameters:
        return
    most = (0.003239 - 0.0001395 * math.log(parameters)) / 3
    if config.model.adapter is not None or parameters < 10**7:
        most *= 10
    if config.sft.learning_rate > most:
        said = f"sft.learning_rate {config.sft.learning_rate:g} is high for {parameters:,} weights"
        yield _warning("learning rate", said, f"lower it to {most:.0e} or less, or use sft.preset")


def _warning(what: str, said: str, fix: str) -> Finding:
    return Finding(what, "warn", said, fix)
