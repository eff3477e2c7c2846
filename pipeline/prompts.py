"""The texts that PPO begins with: prompts to learn from and held out, instructions to mix in."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from align.data.chat import encode_prompt
from align.data.errors import UserError
from align.data.instruction_config import InstructionSource
from align.data.instructions import read_prompts
from align.data.messages import Message, Prompt, cluster_id_of
from align.data.splits import split_of
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.progress import note
from align.pipeline.run_directory import RunDirectory
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
    from align.pipeline.sft import read_splits  # and with it trl, which takes eight seconds

    examples, _ = read_splits(config, directory, tokenizer)
    return Texts([e.prompt_ids for e in examples], [e.completion_ids for e in examples])


def _read(config: RunConfig, directory: RunDirectory) -> tuple[list[Prompt], list[Prompt]]:
    """The demo has held-out prompts of its own; other sources are split by content."""
    rejected = directory.stage("ppo") / "rejected.jsonl"
    files = [source for source in config.data.prompts if source.format != "demo"]
    demo = [source for source in config.data.prompts if source.format == "demo"]
    read = read_prompts(files, config.data.max_rejected, rejected)
    splits: dict[str, list[Prompt]] = {"train": [], "test": []}
    for prompt in read:
        splits[split_of(cluster_id_of(prompt["prompt"]), config.data.held_out)].append(prompt)
    train, held_out = splits["train"], splits["test"]
    train += read_prompts(demo, 0, rejected, config.seed, "ppo")
    evaluation = [InstructionSource(format="demo", rows=config.ppo.eval_prompts) for _ in demo[:1]]
    held_out += read_prompts(evaluation, 0, rejected, config.seed, "heldout")
    return train, held_out


def _fitting(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> list[EncodedPrompt]:
    encoded = [
        EncodedPrompt(prompt["prompt"], encode_prompt(tokenizer, prompt["prompt"]))
        for prompt in prompts
    ]
    return [prompt for prompt in encoded if len(prompt.ids) <= config.data.max_prompt_length]
