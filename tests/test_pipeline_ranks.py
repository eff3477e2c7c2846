"""Two training ranks against one, in every stage and under every ZeRO stage, for real."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from transformers import PreTrainedTokenizerBase

from align.data.batches import epoch_order, micro_batches
from align.pipeline import groups, ppo, ranks, rm, sft
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.groups import Group
from align.pipeline.launch import Shares, launch
from align.pipeline.loading import dump_config, load_config
from align.pipeline.metrics import read_metrics
from align.pipeline.run_directory import RunDirectory
from align.policy.model import load_tokenizer
from align.reward.pairs_file import read_pairs

RUN = {"sft": sft.run, "rm": rm.run, "ppo": ppo.run}
ZERO_STAGES = (0, 1, 2, 3)
BUDGET = 400  # tokens of a micro-batch, so few that a step has an odd number of them
# Not token_accuracy: trl averages it over micro-batches, not over tokens.
COMPARED = {
    "sft": ("loss", "grad_norm", "eval/loss"),
    "rm": ("loss", "grad_norm", "accuracy", "margin", "log_loss", "ece"),
    "ppo": ("loss/policy", "loss/value", "grad_norm", "objective/scores", "objective/kl"),
}


@pytest.fixture(scope="module")
def two_ranks(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages under all ZeRO stages in one group of two ranks, each from the tiny run's models.

    So a stage's difference cannot come from the stage before it.
    """
    folder: Path = tmp_path_factory.mktemp("ranks")
    overrides = [
        "train.ranks=2",
        f"train.micro_batch_tokens={BUDGET}",
        f"rm.model={tiny_run / 'sft' / 'final'}",
        f"ppo.policy={tiny_run / 'sft' / 'final'}",
        f"ppo.reward_model={tiny_run / 'rm' / 'final'}",
    ]
    configs = {
        stage: load_config("tiny", [*overrides, f"train.zero_stage={stage}"])
        for stage in ZERO_STAGES
    }

    def work(shares: Shares) -> int:
        for zero_stage, config in configs.items():
            directory = RunDirectory(folder / str(zero_stage))
            for stage in STAGES:
                RUN[stage](config, directory, shares)
        return 0

    for zero_stage, config in configs.items():
        (folder / str(zero_stage)).mkdir()
        (folder / str(zero_stage) / "config.yaml").write_text(dump_config(config), "utf-8")
    # The ranks cannot import a test module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    assert launch(work, configs[0], RunDirectory(folder), ray_needed=True) == 0
    return folder


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_like_one(
    tiny_run: Path, two_ranks: Path, stage: str, zero_stage: int
) -> None:
    """The tiny run is one rank at ZeRO 0; its batches are the same rows in more micro-batches."""
    alone = read_metrics(tiny_run / stage / "metrics.jsonl")
    together = read_metrics(two_ranks / str(zero_stage) / stage / "metrics.jsonl")
    assert len(alone) == len(together)
    for one, two in zip(alone, together, strict=True):
        for name in COMPARED[stage]:
            if name in one:
                assert two[name] == pytest.approx(one[name], abs=1e-4, rel=1e-4), name


EVERYTHING = [
    "ppo.kl=k2",
    "ppo.kl_in=loss",
    "ppo.kl_target=6",
    "ppo.kl_horizon=100",
    "ppo.scale_scores=true",
    "ppo.whiten_rewards=true",
    "ppo.ptx_coef=0.5",
    "ppo.ema_decay=0.5",
    "ppo.importance_cap=2",
]


@pytest.mark.slow
@pytest.mark.parametrize("more", [EVERYTHING, ["ppo.advantage=rloo", "ppo.samples_per_prompt=4"]])
def test_two_ranks_of_everything_that_ppo_offers_train_like_one(
    tiny_run: Path, tmp_path: Path, finished: Callable[..., str], more: list[str]
) -> None:
    """Under ZeRO 3; the published weights are the average, of which every rank holds a part."""
    from safetensors.torch import load_file

    models = [
        f"ppo.policy={tiny_run / 'sft' / 'final'}",
        f"ppo.reward_model={tiny_run / 'rm' / 'final'}",
    ]
    runs = {"alone": ["train.ranks=1"], "together": ["train.ranks=2", "train.zero_stage=3"]}
    for name, settings in runs.items():
        overrides = [word for one in (*models, *more, *settings) for word in ("--set", one)]
        command = ("run", "--config", "tiny", "--stage", "ppo", "--run-dir", str(tmp_path / name))
        finished(*command, *overrides)
    alone, together = (read_metrics(tmp_path / name / "ppo" / "metrics.jsonl") for name in runs)
    for one, two in zip(alone, together, strict=True):
        same = {
            name: value for name, value in one.items() if name.startswith(("loss", "objective"))
        }
        assert {name: two[name] for name in same} == pytest.approx(same, abs=1e-4, rel=1e-3)
    weights = [load_file(tmp_path / name / "ppo" / "final" / "model.safetensors") for name in runs]
    for name in weights[0]:
        assert (weights[0][name] - weights[1][name]).abs().max() < 1e-3, name


def test_a_rank_had_three_micro_batches_where_the_other_had_two(tiny_run: Path) -> None:
    """ZeRO 2 and 3 crash unless the other one runs an empty one."""
    config = load_config("tiny", [f"train.micro_batch_tokens={BUDGET}"])
    tokenizer = load_tokenizer(tiny_run / "rm" / "final", config.model)
    pairs = read_pairs(tiny_run / "rm" / "pairs.parquet")
    order = epoch_order_of_groups(pairs, tokenizer, config)
    plans = [
        micro_batches([group.item(config.rm.packing) for group in batch], BUDGET, ranks=2)
        for batch in order
    ]
    filled = [[sum(map(bool, mine)) for mine in plan] for plan in plans]
    assert [3, 2] in filled
    assert all(len(plan[0]) == len(plan[1]) for plan in plans)


def epoch_order_of_groups(
    pairs: Any, tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> list[list[Group]]:
    """The groups of every step of the first epoch."""
    world = pytest.MonkeyPatch()
    world.setattr(ranks, "is_main", lambda: True)
    train, _ = groups.encode_groups(pairs, tokenizer, config)
    world.undo()
    rows, size = epoch_order(len(train), config.seed, 0), config.rm.batch_size
    return [
        [train[row] for row in rows[start : start + size]] for start in range(0, len(rows), size)
    ]


def test_the_published_models_are_whole_under_zero_3(tiny_run: Path, two_ranks: Path) -> None:
    from safetensors.torch import load_file

    for stage in STAGES:
        alone = load_file(tiny_run / stage / "final" / "model.safetensors")
        sharded = load_file(two_ranks / "3" / stage / "final" / "model.safetensors")
        assert alone.keys() == sharded.keys()
        for name, weights in alone.items():
            assert sharded[name].shape == weights.shape
            assert (sharded[name] - weights).abs().max() < 1e-3, name


def test_what_cannot_be_placed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from align.data.errors import UserError
    from align.pipeline import launch as launching

    monkeypatch.setattr(launching, "PLACEMENT_SECONDS", 2)
    config: RunConfig = load_config("tiny", ["train.ranks=2", "cluster.cpus_per_rank=64"])
    with pytest.raises(UserError, match=r"no room for train.ranks: 2 with 64 CPU each") as caught:
        launch(lambda _: 0, config, RunDirectory(tmp_path), ray_needed=True)
    assert "\n" not in str(caught.value)


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    from align.data.errors import UserError

    config = load_config("tiny", ["train.ranks=2", "cluster.address=127.0.0.1:9"])
    with pytest.raises(UserError, match=r"no Ray cluster at cluster.address: 127.0.0.1:9"):
        launch(lambda _: 0, config, RunDirectory(tmp_path), ray_needed=True)
