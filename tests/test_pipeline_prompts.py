"""The prompts of PPO: mixed, split, with system prompts and of several turns."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from align.data.config import DataConfig
from align.data.errors import UserError
from align.data.instruction_config import InstructionSource
from align.data.messages import assistant, user
from align.data.mixture_config import Mixture, MixtureConfig, SourceShare
from align.pipeline.config import RunConfig
from align.pipeline.prompts import EncodedPrompt, read_encoded_prompts, read_mixed_in
from align.pipeline.run_directory import RunDirectory
from align.pipeline.sft_data import read_splits
from align.policy.config import PPOConfig


def source(path: Path, rows: list[Any], **options: Any) -> InstructionSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return InstructionSource(path=path, **options)


def asked(path: Path, count: int) -> InstructionSource:
    rows = [{"prompt": f"{path.stem} {i}"} for i in range(count)]
    return source(path, rows, format="prompt_completion")


def config_of(*sources: InstructionSource, mixture: Mixture | None = None) -> RunConfig:
    return RunConfig(
        name="x",
        data=DataConfig(prompts=sources, held_out=0.2),
        mixture=MixtureConfig(prompts=mixture),
    )


@pytest.fixture
def read(tmp_path: Path, one_rank: None, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Prompts to learn from, and held-out ones."""

    def make(config: RunConfig) -> tuple[list[EncodedPrompt], list[EncodedPrompt]]:
        return read_encoded_prompts(config, RunDirectory(tmp_path / "run"), tokenizer)

    return make


def test_a_mixture_draws_prompts_of_each_source_as_planned(tmp_path: Path, read: Any) -> None:
    mixture = Mixture(rows=200, rate_cap=50, sources=(SourceShare(name="a", max_epochs=2),))
    sources = asked(tmp_path / "a.jsonl", 25), asked(tmp_path / "b.jsonl", 400)
    everything, _ = read(config_of(*sources))
    train, held_out = read(config_of(*sources, mixture=mixture))
    assert len(train) == 200
    counts = Counter(prompt.text.split()[0] for prompt in train)
    rows = sum(prompt.text.startswith("a") for prompt in everything)
    assert counts["a"] == min(2 * rows, round(200 * rows / (rows + 50)))
    assert not {p.text for p in train} & {p.text for p in held_out}


def test_system_prompts_and_earlier_turns_are_part_of_a_prompt(tmp_path: Path, read: Any) -> None:
    rows = [{"messages": [*user(f"a{i}"), *assistant("b"), *user("c")]} for i in range(40)]
    chats = source(tmp_path / "x.jsonl", rows, format="messages", system="Be kind.")
    train, held_out = read(config_of(chats))
    assert len(train) + len(held_out) == 40
    roles = ["system", "user", "assistant", "user"]
    assert [message["role"] for message in train[0].messages] == roles
    assert train[0].text == "c"


def test_bad_rows_are_kept_also_beside_generated_ones(tmp_path: Path, read: Any) -> None:
    rows = [*({"prompt": f"{i}"} for i in range(40)), {"prompt": 3}]
    mine = source(tmp_path / "x.jsonl", rows, format="prompt_completion")
    read(config_of(InstructionSource(format="demo", rows=5), mine))
    rejected = json.loads((tmp_path / "run" / "ppo" / "rejected.jsonl").read_text())
    assert rejected["line"] == 41


def test_a_source_with_no_prompt_left_is_one_line(tmp_path: Path, read: Any) -> None:
    sources = asked(tmp_path / "a.jsonl", 40), asked(tmp_path / "b.jsonl", 1)
    with pytest.raises(UserError, match="mixture: source b has no row left"):
        for seed in range(40):  # until the one prompt is held out
            one = source(tmp_path / "b.jsonl", [{"prompt": f"b{seed}"}], format="prompt_completion")
            read(config_of(sources[0], one, mixture=Mixture()))


@pytest.mark.usefixtures("one_rank")
def test_what_is_mixed_into_ppo_is_a_pass_of_what_sft_learns(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [{"instruction": f"Say {i}.", "output": f"{i}"} for i in range(40)]
    few = source(tmp_path / "few.jsonl", rows, format="alpaca")
    mixture = Mixture(rows=300, sources=(SourceShare(name="demo", quality=0.1),))
    config = RunConfig(
        name="x",
        data=DataConfig(instructions=(InstructionSource(format="demo", rows=60), few)),
        mixture=MixtureConfig(instructions=mixture),
        ppo=PPOConfig(ptx_coef=0.5),
    )
    directory = RunDirectory(tmp_path / "run")
    texts = read_mixed_in(config, directory, tokenizer)
    learnt, _ = read_splits(config, directory, tokenizer)
    assert len(texts) == 300 and texts.whole == learnt["input_ids"][:]
    answers = [str(tokenizer.decode(ids)) for ids in texts.responses]
    prompts = [str(tokenizer.decode(ids)) for ids in texts.prompts]
    numbers = [answer[: -len("<|im_end|>")] for answer in answers if answer[0].isdigit()]
    assert len(numbers) > 200, "the mixture holds here too"
    assert all(any(f"Say {n}." in prompt for prompt in prompts) for n in numbers)
    without = config.model_copy(update={"ppo": PPOConfig()})
    assert len(read_mixed_in(without, directory, tokenizer)) == 0
