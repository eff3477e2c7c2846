"""A domain's share of all tokens: what a model gains on it, and loses on everything else."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.config import DataConfig
from align.data.instruction_config import InstructionSource
from align.data.mixture_config import Mixture, MixtureConfig, SourceShare
from align.pipeline.config import RunConfig
from align.pipeline.run_directory import RunDirectory
from align.pipeline.sft import held_out_losses
from align.pipeline.sft_data import built, read_splits

pytestmark = pytest.mark.usefixtures("one_thread", "one_rank")
SHARES = (0.1, 0.5, 0.9)
TOKENS = 12_000
CPU = torch.device("cpu")


def texts_of(letters: str, length: int, path: Path) -> InstructionSource:
    """Answers of random letters, which differ between sources as their lengths do."""
    chance = random.Random(letters)
    rows = [
        {"prompt": f"{path.stem} {i}", "completion": "".join(chance.choices(letters, k=length))}
        for i in range(200)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return InstructionSource(format="prompt_completion", path=path)


def arm(folder: Path, share: float) -> RunConfig:
    """One run of the sweep; rows of the domain are five times as long."""
    general = texts_of("abcd", 20, folder / "general.jsonl")
    domain = texts_of("wxyz", 160, folder / "domain.jsonl")
    shares = (SourceShare(name="domain", token_share=share),)
    return RunConfig(
        name="x",
        data=DataConfig(instructions=(general, domain), max_length=256, max_prompt_length=64),
        mixture=MixtureConfig(instructions=Mixture(tokens=TOKENS, sources=shares, eval_rows=20)),
    )


def train(model: PreTrainedModel, rows: list[dict[str, list[int]]]) -> None:
    """A pass in steps of 200 tokens, so that every arm takes as many."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    tokens = 0
    for row in rows:
        ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
        outputs = model(input_ids=ids, labels=labels)
        (outputs.loss * (labels >= 0).sum()).backward()
        tokens += len(row["input_ids"])
        if tokens >= 200:
            optimizer.step()  # Adam does not mind the scale of a sum
            optimizer.zero_grad()
            tokens = 0


def test_more_of_a_domain_is_better_there_and_worse_elsewhere(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    tiny_causal: Callable[[str], PreTrainedModel],
) -> None:
    """Three runs of as many tokens, whose held-out rows are the same."""
    losses, held_out_rows = [], []
    for share in SHARES:
        config, directory = arm(tmp_path, share), RunDirectory(tmp_path / f"{share}")
        folder = built(config, directory, tokenizer)
        sources = json.loads((folder / "build.json").read_text())["sources"]
        tokens = {source["source"]: source["tokens"] for source in sources}
        assert sum(tokens.values()) == pytest.approx(TOKENS, rel=0.02)
        assert tokens["domain"] / sum(tokens.values()) == pytest.approx(share, abs=0.02)
        rows, held_out = read_splits(config, directory, tokenizer)
        model = tiny_causal("llama")
        train(model, list(rows))
        losses.append(held_out_losses(model, held_out, 4096, CPU))
        held_out_rows.append(held_out)
    assert held_out_rows[0] == held_out_rows[1] == held_out_rows[2]
    domain, general = ([loss[f"loss/{name}"] for loss in losses] for name in ("domain", "general"))
    assert domain == sorted(domain, reverse=True) and general == sorted(general)
    assert domain[0] - domain[-1] > 0.1 and general[-1] - general[0] > 0.1


def test_the_loss_of_all_is_that_of_the_sources_by_their_tokens(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    tiny_causal: Callable[[str], PreTrainedModel],
) -> None:
    _, held_out = read_splits(arm(tmp_path, 0.5), RunDirectory(tmp_path / "run"), tokenizer)
    model = tiny_causal("llama")
    losses = held_out_losses(model, held_out, 4096, CPU)
    assert set(losses) == {"loss", "loss/domain", "loss/general"}
    tokens = {name: sum(len(one.completion_ids) for one in rows) for name, rows in held_out.items()}
    mean = sum(losses[f"loss/{name}"] * count for name, count in tokens.items())
    assert losses["loss"] == pytest.approx(mean / sum(tokens.values()))
    for name, rows in held_out.items():
        assert held_out_losses(model, {name: rows}, 4096, CPU)["loss"] == pytest.approx(
            losses[f"loss/{name}"], abs=1e-4
        )
