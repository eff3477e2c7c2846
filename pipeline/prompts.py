"""The texts that PPO begins with: prompts to learn from and held out, instructions to mix in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from align.data.chat import encode_prompt
from align.data.errors import UserError
from align.data.exchanges import Instruction
from align.data.instruction_config import InstructionSource
from align.data.instructions import prompts_of
from align.data.messages import Message, Prompt, prompt_id_of
from align.data.mixture.choose import Choosable, chosen
from align.data.mixture.plan import planned
from align.data.mixture_config import Mixture
from align.data.rejects import Rejects
from align.data.splits import split_of
from align.data.text_hashes import prompt_hash
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.progress import note
from align.pipeline.run_directory import RunDirectory
from align.pipeline.sft_data import encoded_row, read_splits
from align.pipeline.texts import Texts


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as a person and as a model reads it."""

    messages: list[Message]
    ids: list[int]

    @property
    def text(self) -> str:
        """The last thing the user said."""
        return self.messages[-1]["content"]


def read_encoded_prompts(
    config: RunConfig, directory: RunDirectory, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[EncodedPrompt], list[EncodedPrompt]]:
    """Prompts to learn from, and at most `ppo.eval_prompts` held-out ones; on all ranks."""
    if not config.data.prompts:
        raise UserError("nothing to answer: give data.prompts")
    train, held_out = ranks.on_main(lambda: _read(config, directory))
    learnt = _fitting(train, tokenizer, config)
    tested = _fitting(held_out, tokenizer, config)[: config.ppo.eval_prompts]
    limit = config.data.max_prompt_length
    for prompts, words in ((learnt, "to learn from"), (tested, "to evaluate on")):
        if not prompts:
            raise UserError(
                f"no prompt is left {words}: {len(train)} for training, {len(held_out)} held out "
                f"(data.held_out {config.data.held_out}), all counted before those of more than "
                f"data.max_prompt_length ({limit}) tokens were left out"
            )
    if ranks.is_main():
        lost = len(train) - len(learnt)
        note(
            f"{len(learnt)} prompts, {len(tested)} held out for evaluation, {lost} left out with "
            f"more than {limit} tokens"
        )
    return learnt, tested


def read_mixed_in(
    config: RunConfig, directory: RunDirectory, tokenizer: PreTrainedTokenizerBase
) -> Texts:
    """What SFT learns from, if `ppo.ptx_coef` mixes it into the updates; else nothing."""
    if config.ppo.ptx_coef == 0:
        return Texts([], [])
    rows, _ = read_splits(config, directory, tokenizer)
    examples = [encoded_row(row) for row in rows]
    return Texts([e.prompt_ids for e in examples], [e.completion_ids for e in examples])


def _read(config: RunConfig, directory: RunDirectory) -> tuple[list[Prompt], list[Prompt]]:
    """The demo has held-out prompts of its own; other sources are split by content."""
    data, seed = config.data, config.seed
    rejects = Rejects(directory.stage("ppo") / "rejected.jsonl", data.max_rejected)
    sources = sorted(data.prompts, key=lambda source: source.format == "demo")
    train: list[list[Instruction]] = [[] for _ in sources]
    held_out: list[Instruction] = []
    for source, mine in zip(sources, train, strict=True):
        for one in prompts_of(source, rejects, seed):
            kept = source.format == "demo" or split_of(one.group, data.held_out) == "train"
            (mine if kept else held_out).append(one)
    rejects.finish()
    if any(source.format == "demo" for source in sources):
        evaluation = InstructionSource(format="demo", rows=config.ppo.eval_prompts)
        held_out += prompts_of(evaluation, rejects, seed, "heldout")
    names = [source.named for source in sources]
    return _prompts(mixed(config.mixture.prompts, names, train, seed)), _prompts(held_out)


def mixed(
    mixture: Mixture | None,
    names: Sequence[str],
    sources: Sequence[Sequence[Instruction]],
    seed: int,
) -> list[Instruction]:
    """The prompts of one pass of the mixture; without one, all of them in order.

    Raises: UserError if a source has none left.
    """
    if mixture is None:
        return [one for rows in sources for one in rows]
    rows = chosen(
        mixture, [_choosable(name, mine) for name, mine in zip(names, sources, strict=True)]
    )
    used = [
        list(mine) if places is None else [mine[place] for place in places]
        for mine, places in zip(sources, rows, strict=True)
    ]
    plan = planned(mixture, names, np.array([*map(len, used)]), np.ones(len(used)), seed)
    return [used[source][place] for source, place in plan.stream(0, plan.length)]


def _choosable(name: str, rows: Sequence[Instruction]) -> Choosable:
    return Choosable(
        name,
        np.array([prompt_hash(one) for one in rows], dtype=np.uint64),
        pa.chunked_array([[one.task_id for one in rows]], pa.string()),
        pa.chunked_array([[one.label for one in rows]], pa.string()),
    )


def _prompts(rows: Sequence[Instruction]) -> list[Prompt]:
    return [{"prompt": one.prompt, "prompt_id": prompt_id_of(one.prompt)} for one in rows]


def _fitting(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> list[EncodedPrompt]:
    encoded = [
        EncodedPrompt(prompt["prompt"], encode_prompt(tokenizer, prompt["prompt"]))
        for prompt in prompts
    ]
    return [prompt for prompt in encoded if len(prompt.ids) <= config.data.max_prompt_length]
