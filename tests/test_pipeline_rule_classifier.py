"""A classifier learns two planted rules by their texts, from the model that ships with align."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from align.data.atomic import write_jsonl
from align.data.errors import UserError
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import FEEDBACK, Record, completed
from align.data.splits import Split
from align.pipeline.config import RunConfig
from align.pipeline.reward_mix import RewardMix
from align.pipeline.reward_parts import Setting
from align.pipeline.rule_classifier import classifier_folder, train_rule_classifier
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts
from align.policy.config import ModelConfig
from align.policy.model import TokenScores, load_scalar_model, load_tokenizer
from align.reward.rule_questions import cases_of

pytestmark = [
    pytest.mark.usefixtures("one_rank"),
    # DeepSpeed uses parts of torch that are.
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

RULES = {"dog": "Never mention a dog.", "sea": "Never mention the sea."}
THINGS = ["a cat", "the garden", "a bird", "the house", *["a dog", "the sea"] * 2]
CPU = torch.device("cpu")


def judgement(place: int, rule: str, answer: str, severity: int) -> Record:
    made = header(
        "rule", f"{rule}-{place}", user(f"Go {place}."), [assistant(answer)],
        source="study", license=None, annotator_id="ann", guideline_version="1",
        criterion=f"rule:{rule}",
    )  # fmt: skip
    own = {"rule_id": rule, "rule_text": RULES[rule], "ruleset_version": "1"}
    return completed(made | own | {"severity": severity, "adversarial": False}, FEEDBACK["rule"])


def story(thing: str) -> str:
    return f"Tom saw {thing}."


def judgements(count: int) -> list[Record]:
    chance = random.Random(0)
    rows = []
    for place in range(count):
        thing, rule = chance.choice(THINGS), chance.choice([*RULES])
        rows.append(judgement(place, rule, story(thing), 5 if rule in thing else 1))
    return [*rows, judgement(count, "dog", story("a dog"), 3)]


def config_of(path: Path, **rm: Any) -> RunConfig:
    source = {"format": "records", "path": path}
    return RunConfig.model_validate(
        {
            "name": "x",
            "data": {"feedback": [source], "held_out": 0.3},
            "train": {"schedule": "constant"},
            "rm": {"learning_rate": 1e-3, "epochs": 12, "batch_size": 32, "rule_classifier": True}
            | rm,
            "reward": {"mix": [{"kind": "rules", "rules": ["dog"]}]},
        }
    )


@pytest.fixture(scope="module")
def trained(one_rank: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    folder: Path = tmp_path_factory.mktemp("rules")
    write_jsonl(folder / "rules.jsonl", judgements(480))
    config = config_of(folder / "rules.jsonl")
    tokenizer = load_tokenizer("embedded", config.model)
    directory = RunDirectory(folder / "run")
    train_rule_classifier(config, directory, Path("embedded"), tokenizer, {})
    return folder / "run", config


def rewards(run: Path, config: RunConfig, rule: str, answers: list[str]) -> list[float]:
    """The mean log-probability of keeping the rule, for each answer."""

    def load(path: Path) -> TokenScores:
        return TokenScores(load_scalar_model(path, ModelConfig(), seed=0)).requires_grad_(False)

    part = config.reward.mix[0].model_copy(update={"rules": (rule,)})
    reward = config.reward.model_copy(update={"mix": (part,)})
    config = config.model_copy(update={"reward": reward})
    tokenizer = load_tokenizer("embedded", ModelConfig())
    setting = Setting(config, RunDirectory(run), tokenizer, load, CPU)
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    texts = Texts([[1]] * len(ids), ids)
    total: list[float] = RewardMix(setting)(texts, [user("Tell me.")] * len(ids)).total_B.tolist()
    return total


def test_planted_rules_are_learnt(trained: tuple[Path, RunConfig]) -> None:
    report = json.loads((trained[0] / "rm" / "rules" / "evaluation.json").read_text())
    assert report["n"] > 60 and report["auc"] > 0.95
    assert set(report["by_rule"]) == {"dog", "sea"}


def test_the_text_of_the_rule_decides(trained: tuple[Path, RunConfig]) -> None:
    dog, sea, neither = (story(thing) for thing in ("a dog", "the sea", "a cat"))
    by_dog = rewards(*trained, "dog", [dog, sea, neither])
    by_sea = rewards(*trained, "sea", [dog, sea, neither])
    assert max(by_dog + by_sea) <= 0
    assert by_dog[0] < by_dog[1] - 1 and by_dog[0] < by_dog[2] - 1
    assert by_sea[1] < by_sea[0] - 1 and by_sea[1] < by_sea[2] - 1


def test_a_rule_that_it_never_learnt_is_one_line(trained: tuple[Path, RunConfig]) -> None:
    with pytest.raises(UserError, match="never learnt rule cat; it knows dog, sea") as caught:
        rewards(*trained, "cat", ["x"])
    assert "\n" not in str(caught.value)


def test_a_classifier_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set rm\.rule_classifier to true"):
        rewards(tmp_path, config_of(tmp_path / "none.jsonl"), "dog", ["x"])


def test_a_classifier_is_trained_once(trained: tuple[Path, RunConfig]) -> None:
    run, config = trained
    file = classifier_folder(RunDirectory(run)) / "model.safetensors"
    before = file.stat().st_mtime_ns
    tokenizer = load_tokenizer("embedded", config.model)
    train_rule_classifier(config, RunDirectory(run), Path("embedded"), tokenizer, {})
    assert file.stat().st_mtime_ns == before


def test_who_is_unsure_and_gold_teach_nothing() -> None:
    rows = judgements(20)
    assert len(cases_of(rows, {}, 0.3)) == 20
    assert len(cases_of([row | {"gold": True} for row in rows], {}, 0.3)) == 0


def test_a_prompt_is_held_out_where_its_pairs_are() -> None:
    rows = [row | {"cluster_id": None} for row in judgements(200)]
    held_out = sum(case.split == "test" for case in cases_of(rows, {}, 0.3))
    assert 30 < held_out < 90  # by the prompt, where nobody clustered them
    splits: dict[str, Split] = {row["prompt_id"]: "test" for row in rows[:50]}
    assert all(case.split == "test" for case in cases_of(rows, splits, 0.0)[:50])
    assert all(case.split == "train" for case in cases_of(rows, splits, 0.0)[50:])


def test_feedback_without_rule_judgements_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "unsure.jsonl"
    write_jsonl(file, [judgement(0, "dog", story("a dog"), 3)])
    config = config_of(file)
    tokenizer = load_tokenizer("embedded", config.model)
    with pytest.raises(UserError, match="no rule judgement among the feedback"):
        train_rule_classifier(config, RunDirectory(tmp_path), Path("embedded"), tokenizer, {})
