"""From the feedback sources of the config to the preference table of the run."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from align.data.atomic import write_jsonl
from align.data.chat import encode_prompt
from align.data.config import FeedbackSource
from align.data.demo import demo_prompts
from align.data.errors import UserError
from align.data.splits import shared_answers
from align.pipeline.answers import FEEDBACK_STEP, answer_text, sample_answers, sampling_settings
from align.pipeline.config import RunConfig
from align.pipeline.conversion import converted
from align.pipeline.progress import note
from align.pipeline.run_directory import RunDirectory
from align.policy.model import load_causal_lm
from align.reward.pairs_file import read_pairs, write_pairs
from align.reward.simulated import simulate_feedback

ANSWERS_PER_PROMPT = 4


def collect(
    config: RunConfig,
    directory: RunDirectory,
    model_path: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """Read, convert and store `rm/pairs.parquet`; returns its rows.

    A stage that goes on keeps the table it began with.
    """
    path = directory.stage("rm") / "pairs.parquet"
    if path.exists() and directory.has_begun("rm"):
        return read_pairs(path)
    if not config.data.feedback:
        raise UserError("nothing to judge by: give data.feedback")
    stage = directory.stage("rm")
    sources = [source for source in config.data.feedback if source.format != "simulated"]
    for source in config.data.feedback:
        if source.format == "simulated":
            sources += _simulated(source, config, stage / "feedback", model_path, tokenizer)
    counts = write_pairs(
        path, converted(sources, config.feedback, config.data, stage, stage / "rejected.jsonl")
    )
    for kind, count in counts.items():
        note(f"{kind}: {count.records} records, {count.pairs} pairs, {count.ties} of them ties")
    pairs = read_pairs(path)
    if shared := shared_answers(pairs):
        note(f"{len(shared)} texts are answers both in training and in the held-out pairs")
    return pairs


def _simulated(
    source: FeedbackSource,
    config: RunConfig,
    folder: Path,
    model_path: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> list[FeedbackSource]:
    """Ask the demo's annotators about answers of the SFT model; raw records, one file a kind."""
    assert source.rows is not None  # the config demands it
    prompts = [row["prompt"] for row in demo_prompts(source.rows, config.seed, "feedback")]
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    drawn = sample_answers(
        load_causal_lm(model_path, config.model),
        tokenizer,
        ids,
        sampling_settings(config, tokenizer),
        (config.seed, FEEDBACK_STEP),
        per_prompt=ANSWERS_PER_PROMPT,
    )
    texts = [answer_text(tokenizer, answer) for answer in drawn]
    answers = [
        texts[start : start + ANSWERS_PER_PROMPT]
        for start in range(0, len(texts), ANSWERS_PER_PROMPT)
    ]
    sources = []
    for kind, records in simulate_feedback(prompts, answers, config.seed).items():
        path = folder / f"{kind}.jsonl"
        write_jsonl(path, records)
        sources.append(FeedbackSource(format="records", path=path))
    return sources
