"""What SFT's batches and loss are: documents apart, and every target token counts the same."""

from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from align.pipeline.config import RunConfig
from align.pipeline.instruction_build import IGNORED
from align.pipeline.sft import packed

pytestmark = pytest.mark.usefixtures("one_thread", "one_rank")
FAMILIES = ("llama", "gpt2", "qwen2")
LENGTHS = [(3, 9), (12, 4), (5, 20), (2, 2), (17, 11), (6, 1), (1, 30), (8, 8)]
"""Prompt and answer tokens of the documents."""


def documents() -> Dataset:
    generator = np.random.default_rng(0)
    ids = [generator.integers(10, 300, sum(pair)).tolist() for pair in LENGTHS]
    labels = [
        [IGNORED] * prompt + row[prompt:] for row, (prompt, _) in zip(ids, LENGTHS, strict=True)
    ]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def config_of(packing: bool) -> RunConfig:
    values: dict[str, Any] = {"name": "x", "data": {"max_length": 48, "max_prompt_length": 20}}
    values |= {"sft": {"packing": packing}, "rollout": {"max_new_tokens": 8}}
    return RunConfig.model_validate(values)


def trainer_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, packing: bool
) -> SFTTrainer:
    arguments = SFTConfig(
        output_dir=str(folder),
        packing=packing,
        max_length=48,
        per_device_train_batch_size=2,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        use_cpu=True,
        report_to=[],
        dataloader_pin_memory=False,
    )
    rows = packed(documents(), config_of(packing))
    return SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)


def starts_in(batch: dict[str, Tensor]) -> list[int]:
    """Where the documents of a packed batch begin, and where the last one ends."""
    starts: list[int] = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    return [*starts, batch["input_ids"].shape[1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_never_see_each_other(
    family: str,
    tiny_causal: Callable[[str], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    model = tiny_causal(family)
    trainer = trainer_of(model, tokenizer, tmp_path, packing=True)
    model.eval()
    together = 0
    for batch in trainer.get_train_dataloader():
        seen = {name: value for name, value in batch.items() if name != "labels"}
        outputs = model(**seen, use_cache=False)  # as SFTTrainer.compute_loss asks
        bounds = starts_in(batch)
        together += len(bounds) - 2
        for start, end in pairwise(bounds):
            alone = model(input_ids=batch["input_ids"][:, start:end], use_cache=False)
            torch.testing.assert_close(
                outputs.logits[:, start:end], alone.logits, atol=1e-5, rtol=0
            )
    assert together >= 4, "documents do lie behind one another"


def manual_loss(model: PreTrainedModel, rows: Dataset) -> tuple[Tensor, int]:
    """Summed cross-entropy of all answer tokens, one document at a time; and how many they are."""
    total, count = torch.zeros(()), 0
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        logprobs_TV = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        learnt = labels[1:] != IGNORED
        total = total - logprobs_TV[learnt, ids[1:][learnt]].sum()
        count += int(learnt.sum())
    return total, count


def gradient(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_the_mean_over_all_target_tokens_of_the_step(
    packing: bool,
    tiny_causal: Callable[[str], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    model = tiny_causal("llama")
    total, count = manual_loss(model, documents())
    mean = total / count
    mean.backward()
    expected = gradient(model)
    model.zero_grad()

    trainer = trainer_of(model, tokenizer, tmp_path, packing)
    loader = trainer.get_train_dataloader()
    batches, tokens = trainer.get_batch_samples(iter(loader), len(loader), torch.device("cpu"))
    assert tokens is not None and int(tokens) == count and len(batches) > 1
    sizes = [int((batch["labels"] != IGNORED).sum()) for batch in batches]
    assert len(set(sizes)) > 1, "micro-batches have unequal numbers of target tokens"
    loss = 0.0
    for batch in batches:
        part = trainer.compute_loss(model, dict(batch), num_items_in_batch=tokens)
        part.backward()
        loss += float(part.detach())
    assert loss == pytest.approx(float(mean.detach()), abs=1e-6)
    torch.testing.assert_close(gradient(model), expected, atol=1e-6, rtol=1e-4)


def test_what_stands_in_a_prompt_is_no_target(
    tiny_causal: Callable[[str], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    model = tiny_causal("llama")
    trainer = trainer_of(model, tokenizer, tmp_path, packing=False)
    (batch, *_) = trainer.get_train_dataloader()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits.retain_grad()
    loss = model.loss_function(logits, batch["labels"], vocab_size=logits.shape[-1])
    loss.backward()
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    unlearnt = logits.grad[targets == IGNORED]
    assert len(unlearnt) and not unlearnt.any()
    assert logits.grad[targets != IGNORED].any(dim=-1).all()


def test_packing_keeps_every_document_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = packed(documents(), config_of(packing=True))
    found = []
    for row in rows:
        assert len(row["input_ids"]) <= 48
        for start, end in pairwise([0, *accumulate(row["seq_lengths"])]):
            found.append((row["input_ids"][start:end], row["labels"][start:end]))
    expected = [(row["input_ids"], row["labels"]) for row in documents()]
    assert sorted(found) == sorted(expected)
