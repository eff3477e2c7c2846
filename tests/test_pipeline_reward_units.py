"""Rewards whose zero is the mean of SFT demonstrations, wherever the model is scored."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.data.config import DataConfig
from align.data.demo import demo_instructions
from align.data.errors import UserError
from align.data.instruction_config import InstructionSource
from align.pipeline.config import RunConfig
from align.pipeline.export import publish
from align.pipeline.reward_units import demonstrations, units_of
from align.pipeline.run_directory import RunDirectory
from align.policy.adapters import add_adapter
from align.policy.config import AdapterConfig, LoRAConfig, ModelConfig, RolloutConfig
from align.policy.logprobs import text_batch, text_scores
from align.policy.model import TokenScores, load_scalar_model
from align.policy.pad_token import own_pad_token
from align.policy.reward_heads import set_reward_units

pytestmark = pytest.mark.usefixtures("one_rank")

TinyModel = Callable[[str], PreTrainedModel]
CPU = torch.device("cpu")
PROMPTS, ANSWERS = [[11, 12], [13]], [[21, 22, 23, 4], [24, 4]]  # 4 is the EOS, <|im_end|>


def test_units_give_mean_zero_and_if_asked_spread_one() -> None:
    scores = torch.tensor([1.0, 2.0, 6.0])
    assert units_of(scores, "none") == (0.0, 1.0)
    assert units_of(scores, "shift") == (3.0, 1.0)
    shift, scale = units_of(scores, "standardize")
    reward = (scores - shift) / scale
    assert float(reward.mean()) == pytest.approx(0, abs=1e-6)
    assert float(reward.square().mean()) == pytest.approx(1)


def test_demonstrations_that_score_alike_have_no_scale() -> None:
    with pytest.raises(UserError, match="all alike: use shift"):
        units_of(torch.ones(4), "standardize")


@torch.no_grad()
@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2, alpha=4).in_full])
@pytest.mark.parametrize("pad_is_eos", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_stock_class_gives_the_same_scores_up_to_shift_and_scale(
    tiny_scalar: TinyModel,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    lora: AdapterConfig | None,
    pad_is_eos: bool,
    side: str,
) -> None:
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    model = tiny_scalar("llama")
    own_pad_token(tokenizer, model)
    trained = add_adapter(model, lora, seed=0) if lora else model
    set_reward_units(trained, shift=1.5, scale=0.5)
    config = RunConfig(name="x", model=ModelConfig(peft=lora))
    publish(trained, tokenizer, config, "rm", tmp_path / "final")

    ours = TokenScores(load_scalar_model(tmp_path / "final", ModelConfig(), seed=0))
    rewards = text_scores(ours, text_batch(PROMPTS, ANSWERS, CPU))
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final")
    reader = AutoTokenizer.from_pretrained(tmp_path / "final", padding_side=side)
    texts = [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    padded = reader.pad({"input_ids": texts}, return_tensors="pt")
    assert int(padded["attention_mask"].sum()) == sum(map(len, texts)) < padded["input_ids"].numel()
    together = stock(**padded).logits[:, 0]
    alone = torch.cat([stock(input_ids=torch.tensor([text])).logits[:, 0] for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert (stock.config.reward_shift, stock.config.reward_scale) == (1.5, 0.5)
    assert torch.allclose((alone - 1.5) / 0.5, rewards, atol=1e-5)


def test_a_model_without_units_is_scored_as_its_head_says(tiny_scalar: TinyModel) -> None:
    model = tiny_scalar("llama")
    plain = TokenScores(model)(torch.tensor([[5, 6]]))
    set_reward_units(model, shift=0.25, scale=2.0)
    assert torch.allclose(TokenScores(model)(torch.tensor([[5, 6]])), (plain - 0.25) / 2)


def with_length(max_length: int) -> RunConfig:
    source = InstructionSource(format="demo", rows=300)
    data = {"instructions": (source,), "max_length": max_length, "max_prompt_length": 8}
    return RunConfig(
        name="x", data=DataConfig.model_validate(data), rollout=RolloutConfig(max_new_tokens=1)
    )


def test_demonstrations_come_from_the_instructions(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts, texts = demonstrations(with_length(1000), RunDirectory(tmp_path), tokenizer)
    assert len(prompts) == len(texts) == 256
    answers = {
        row["prompt"][0]["content"]: row["completion"][0]["content"]
        for row in demo_instructions(300, seed=RunConfig(name="x").seed)
    }
    for prompt, answer in zip(prompts, texts.responses, strict=True):
        assert tokenizer.decode(answer[:-1]) == answers[prompt[0]["content"]]
    limit = sorted(map(len, texts.whole))[99]
    fitting, _ = demonstrations(with_length(limit), RunDirectory(tmp_path), tokenizer)
    assert 100 <= len(fitting) < 256


def test_text_that_answers_no_prompt_is_no_demonstration(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "books.txt").write_text("<|endoftext|>".join(f"Story {i}." for i in range(50)))
    config = with_length(1000)
    books = InstructionSource(format="text", path=tmp_path / "books.txt")
    data = config.data.model_copy(update={"instructions": (books, *config.data.instructions)})
    mixed = config.model_copy(update={"data": data})
    directory = RunDirectory(tmp_path / "run")
    assert demonstrations(mixed, directory, tokenizer) == demonstrations(
        config, directory, tokenizer
    )


def test_no_demonstration_is_one_line(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"none of 256 demonstrations fits data.max_length \(9\)"):
        demonstrations(with_length(9), RunDirectory(tmp_path), tokenizer)
    with pytest.raises(UserError, match=r"give data\.instructions"):
        demonstrations(RunConfig(name="x"), RunDirectory(tmp_path), tokenizer)
