"""Looks at what SFT would learn with every lint of `sft_lints.py`."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from align.data.exchanges import Instruction, Reading
from align.data.instructions import instructions_of
from align.data.rejects import Rejects
from align.pipeline import sft_lints
from align.pipeline.config import RunConfig
from align.pipeline.data_overlap import feedback_records, overlap_report
from align.pipeline.finding import Finding
from align.pipeline.sft_data import built_aside
from align.policy.model import load_tokenizer
from align.policy.places import resolve


def findings(config: RunConfig, run_dir: Path) -> Iterator[Finding]:
    """What the lints find in the first rows of each source. Raises: UserError.

    `run_dir` may have the splits of an earlier build.
    """
    config = _first_rows(config)
    tokenizer = load_tokenizer(config.sft.model or config.model.path, config.model)
    yield from sft_lints.template(tokenizer)
    yield from sft_lints.letters(tokenizer, _rows(config))
    yield from sft_lints.eos(tokenizer)
    report = _report(config, run_dir, tokenizer)
    yield from sft_lints.mask(report)
    yield from sft_lints.length(report, config)
    yield from sft_lints.duplicates(report, config)
    yield from sft_lints.leaks(report)
    yield from sft_lints.imbalance(report)
    yield from sft_lints.learning_rate(config, _parameters(config))


def _first_rows(config: RunConfig) -> RunConfig:
    data = config.data
    few = [
        source.model_copy(update={"rows": min(source.rows or sft_lints.ROWS, sft_lints.ROWS)})
        for source in data.instructions
    ]
    return config.model_copy(update={"data": data.model_copy(update={"instructions": tuple(few)})})


def _rows(config: RunConfig) -> Iterator[Instruction]:
    for source in config.data.instructions:
        bare = source.without_demonstrations()
        yield from instructions_of(bare, Rejects(None), Reading(config.seed))


def _report(config: RunConfig, run_dir: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    report = built_aside(config, run_dir, tokenizer, None)
    records = islice(feedback_records(config), sft_lints.ROWS)
    return report | {"overlap": overlap_report(config, run_dir, records)}


def _parameters(config: RunConfig) -> int:
    """Weights of the model; 0 where its config is not at hand."""
    source = resolve(config.sft.model or config.model.path)
    if config.model.gguf_file or not (Path(source) / "config.json").is_file():
        return 0
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))
    return int(model.num_parameters())
