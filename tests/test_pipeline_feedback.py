"""The reward model's stage: its table obeys the options of `feedback`, and its loss the noise."""

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from align.data.atomic import write_jsonl
from align.data.config import DataConfig, FeedbackSource
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import ANNOTATOR, FEEDBACK, Record, completed, write_table
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.feedback import collect
from align.pipeline.groups import Group, Pair
from align.pipeline.rm_update import group_scores, groups_loss, outcomes_in
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts
from align.reward.annotators.noise import smoothed
from align.reward.config import FeedbackConfig, RewardConfig


def vote(name: str, outcome: str, who: str, prompt: str) -> Record:
    made = header(
        "comparison", name, user(prompt), [assistant("a"), assistant("b")], source="study",
        license=None, annotator_id=who, guideline_version="1",
    )  # fmt: skip
    return completed(made | {"outcome": outcome}, FEEDBACK["comparison"])


def collected(folder: Path, tokenizer: PreTrainedTokenizerBase, **feedback: Any) -> list[Record]:
    votes = [
        vote(f"{who}{i}", "ab"[(i + (who == "liar")) % 2], who, f"P{i}")
        for i in range(20)
        for who in ("ann", "bob", "liar")
    ]
    write_jsonl(folder / "votes.jsonl", votes)
    source = FeedbackSource(format="records", path=folder / "votes.jsonl")
    config = RunConfig(
        name="x",
        data=DataConfig(feedback=(source,)),
        feedback=FeedbackConfig.model_validate(feedback),
    )
    return collect(config, RunDirectory(folder / "run"), Path("nowhere"), tokenizer)


def test_the_stage_obeys_the_options_of_feedback(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    plain = collected(tmp_path, tokenizer)
    assert {row["noise_prob"] for row in plain} == {None}
    assert {round(row["target_prob"], 3) for row in plain} == {0.667}
    noisy = collected(tmp_path, tokenizer, noise="dawid_skene")
    assert all(0 < row["noise_prob"] < 0.1 for row in noisy)  # the liar is found out
    assert {round(row["target_prob"], 3) for row in noisy} == {0.667}
    fitted = collected(tmp_path, tokenizer, comparisons={"pairs": "fitted", "z": 0})
    assert {round(row["margin"], 3) for row in fitted} == {round(math.log(2), 3)}
    table = tmp_path / "annotators.parquet"
    row = completed({"annotator_id": "ann", "kind": "human", "gold_n": 0}, ANNOTATOR)
    write_table(table, [row], ANNOTATOR)
    mine = collected(tmp_path, tokenizer, annotators=table)
    assert {name for row in mine for name in row["annotator_ids"]} == {"ann"}


def loss_of(target_prob: float, noise_prob: float) -> float:
    """Of one pair by a model that scores a text by its last token."""

    class Scores:
        device = torch.device("cpu")

        def __call__(self, ids_BL: Tensor) -> Tensor:
            return ids_BL.float() / 10

    pair = Pair(0, 1, target_prob, smoothed(target_prob, noise_prob), 0.0, 1.0, {})
    group = Group(Texts([[1], [1]], [[17], [9]]), [pair], [])
    config = RunConfig(name="x", rm=RewardConfig(centering_coef=0, packing=False))
    scores_B, _ = group_scores([group], cast(Engine, Scores()), config)
    (outcome,) = outcomes_in([group], scores_B.tolist())
    assert outcome.target_prob == target_prob  # accuracy is measured by the votes
    return float(groups_loss([group], scores_B, config))


@pytest.mark.parametrize("target", [0.5, 2 / 3, 1.0])
def test_a_noisy_pair_is_learnt_at_its_smoothed_target(target: float) -> None:
    def log_loss(gap: float) -> float:
        right = math.log1p(math.exp(-gap))
        return target * right + (1 - target) * (right + gap)

    assert loss_of(target, 0.0) == pytest.approx(log_loss(0.8), rel=1e-6)
    expected = 0.7 * log_loss(0.8) + 0.3 * log_loss(-0.8)
    assert loss_of(target, 0.3) == pytest.approx(expected, rel=1e-6)
