"""Rewards with a zero that means something: SFT demonstrations have mean 0, and if asked std 1.

A preference leaves the constant of a reward free. Sources: Huang et al. 2024 (arXiv:2403.17031)
for mean 0 on demonstrations; Ziegler et al. 2019 (arXiv:1909.08593) for variance 1 as well.

Shapes: B demonstrations.
"""

from collections.abc import Callable
from itertools import compress

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.batches import epoch_order
from align.data.chat import encode
from align.data.errors import UserError
from align.data.exchanges import Instruction, Reading
from align.data.instructions import instructions_of
from align.data.messages import Message
from align.data.rejects import Rejects
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts, per_text
from align.policy.logprobs import text_scores
from align.policy.reward_heads import set_reward_units
from align.reward.mix_config import Normalize

DEMONSTRATIONS = 256
"""At most; drawn by the run's seed."""


def normalize(
    model: PreTrainedModel | PeftModel,
    scores: Callable[[Tensor], Tensor],
    device: torch.device,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    directory: RunDirectory,
) -> None:
    """Set the model's reward units by `rm.normalize`; `scores` are of its tokens. On all ranks."""
    if config.rm.normalize == "none":
        return
    _, texts = demonstrations(config, directory, tokenizer)
    budget = config.train.micro_batch_tokens
    scores_B = per_text(lambda batch: text_scores(scores, batch), texts, budget, device)
    shift, scale = units_of(scores_B, config.rm.normalize)
    set_reward_units(model, shift=shift, scale=scale)


def units_of(scores_B: Tensor, how: Normalize) -> tuple[float, float]:
    """The shift and the scale that give the scores mean 0, and std 1 with `standardize`.

    Raises: UserError where all demonstrations score alike, and no scale could part them.
    """
    if how == "none":
        return 0.0, 1.0
    if how == "shift":
        return float(scores_B.mean()), 1.0
    scale = float(scores_B.std(correction=0))
    if not scale > 0:
        raise UserError(
            f"normalize: standardize divides by the spread of the rewards of {len(scores_B)} "
            "demonstrations, and they are all alike: use shift"
        )
    return float(scores_B.mean()), scale


def demonstrations(
    config: RunConfig, directory: RunDirectory, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[list[Message]], Texts]:
    """Prompts as messages, and with their answers in tokens, of some of the instructions.

    They fit `data.max_length`, and text that answers no prompt is left aside. On all ranks.
    """
    if not config.data.instructions:
        raise UserError(
            "normalize measures rewards on SFT demonstrations: give data.instructions, or set "
            "normalize to none"
        )
    examples: list[Instruction] = ranks.on_main(lambda: _answered_prompts(config, directory))
    order = epoch_order(len(examples), config.seed, epoch=0)
    drawn = [examples[row] for row in order[:DEMONSTRATIONS]]
    encoded = [encode(tokenizer, one.prompt, one.completion or []) for one in drawn]
    longest = config.data.max_length
    fits = [len(one.prompt_ids) + len(one.completion_ids) <= longest for one in encoded]
    if not any(fits):
        raise UserError(
            f"normalize: none of {len(drawn)} demonstrations fits data.max_length ({longest})"
        )
    kept = [*compress(encoded, fits)]
    return [one.prompt for one in compress(drawn, fits)], Texts(
        [one.prompt_ids for one in kept], [one.completion_ids for one in kept]
    )


def _answered_prompts(config: RunConfig, directory: RunDirectory) -> list[Instruction]:
    rejects = Rejects(directory.stage("sft") / "rejected.jsonl", config.data.max_rejected)
    reading = Reading(config.seed)
    examples = [
        one
        for source in config.data.instructions
        for one in instructions_of(source.without_demonstrations(), rejects, reading)
        if one.prompt
    ]
    rejects.finish()
    return examples
