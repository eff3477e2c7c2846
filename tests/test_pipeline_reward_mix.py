"""The reward of PPO from its parts, with a real reward model and real functions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.chat import encode
from align.data.errors import UserError
from align.data.messages import assistant, user
from align.pipeline.config import RunConfig
from align.pipeline.metrics import read_metrics
from align.pipeline.reward_mix import RewardMix, mix_identities
from align.pipeline.reward_parts import Setting
from align.pipeline.reward_units import demonstrations
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts
from align.policy.config import ModelConfig
from align.policy.logprobs import text_batch, text_scores
from align.policy.model import TokenScores, load_scalar_model

pytestmark = pytest.mark.usefixtures("one_rank")

CPU = torch.device("cpu")
ANSWERS = ["yes please", "no", "a longer answer, please"]
PROMPTS = [user("Hi"), user("What?"), user("Tell me")]
RULES = "def polite(prompt, answer):\n    return 'please' in answer\n"


@pytest.fixture
def folder(
    tiny_scalar: Callable[[str], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> Path:
    """Two reward models and a file of rules."""
    model = tiny_scalar("llama")
    for name in ("rm-1", "rm-2"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        with torch.no_grad():
            model.get_submodule("score").weight.mul_(-3)  # type: ignore[operator]
    (tmp_path / "rules.py").write_text(RULES)
    return tmp_path


@pytest.fixture
def texts(tokenizer: PreTrainedTokenizerBase) -> Texts:
    encoded = [
        encode(tokenizer, prompt, assistant(answer))
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    return Texts([one.prompt_ids for one in encoded], [one.completion_ids for one in encoded])


def config_of(folder: Path, *mix: dict[str, Any], **reward: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "x",
            "data": {"instructions": [{"format": "demo", "rows": 40}], "max_length": 2000},
            "train": {"micro_batch_tokens": 4096},
            "ppo": {"reward_model": folder / "rm-1"},
            "reward": {"mix": list(mix)} | reward,
        }
    )


def model_in(path: Path) -> TokenScores:
    return TokenScores(load_scalar_model(path, ModelConfig(), seed=0)).requires_grad_(False)


def setting(folder: Path, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> Setting:
    return Setting(config, RunDirectory(folder / "run"), tokenizer, model_in, CPU)


def score_alone(path: Path, texts: Texts) -> torch.Tensor:
    return text_scores(model_in(path), text_batch(texts.prompts, texts.responses, CPU))


def test_without_a_mix_the_reward_is_the_reward_models_word(
    folder: Path, tokenizer: PreTrainedTokenizerBase, texts: Texts
) -> None:
    rewards = RewardMix(setting(folder, tokenizer, config_of(folder)))(texts, PROMPTS)
    assert torch.allclose(rewards.total_B, score_alone(folder / "rm-1", texts), atol=1e-5)


def test_models_functions_lengths_and_gates_make_one_reward(
    folder: Path, tokenizer: PreTrainedTokenizerBase, texts: Texts
) -> None:
    config = config_of(
        folder,
        {"kind": "model", "models": [folder / "rm-1", folder / "rm-2"], "uncertainty": 0.25},
        {"kind": "function", "name": "polite", "function": "polite", "file": folder / "rules.py",
         "weight": 0.5, "least": 1.0},
        {"kind": "length", "longest": 12, "weight": 0.1},
        gated=-7.0,
    )  # fmt: skip
    rewards = RewardMix(setting(folder, tokenizer, config))(texts, PROMPTS)
    one, two = (score_alone(folder / name, texts) for name in ("rm-1", "rm-2"))
    believed = (one + two) / 2 - 0.25 * ((one - two) / 2) ** 2
    excess = [max(0, len(ids) - 12) for ids in texts.responses]
    assert excess[0] == 0 < excess[2]
    expected = believed + 0.5 - 0.1 * torch.tensor(excess)
    assert rewards.total_B[[0, 2]].tolist() == pytest.approx(expected[[0, 2]].tolist(), abs=1e-4)
    assert rewards.total_B[1] == -7.0
    assert rewards.metrics["reward/polite"] == pytest.approx(2 / 3)
    assert rewards.metrics["reward/gated"] == pytest.approx(1 / 3)


def test_a_normalised_part_has_mean_0_and_spread_1_on_demonstrations(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = config_of(folder, {"kind": "model", "normalize": "standardize"})
    where = setting(folder, tokenizer, config)
    mix = RewardMix(where)
    prompts, texts = demonstrations(config, where.directory, tokenizer)
    rewards = mix(texts, prompts).total_B
    assert float(rewards.mean()) == pytest.approx(0, abs=1e-4)
    assert float(rewards.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_a_reward_that_is_not_finite_names_the_part_and_the_answer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, texts: Texts
) -> None:
    (folder / "rules.py").write_text(
        "def f(prompt, answer):\n    return float('nan') if answer == 'no' else 1.0\n"
    )
    part = {"kind": "function", "function": "f", "file": folder / "rules.py"}
    mix = RewardMix(setting(folder, tokenizer, config_of(folder, part)))
    with pytest.raises(UserError, match='reward function: nan for answer 1 of 3, "no"') as caught:
        mix(texts, PROMPTS)
    assert "\n" not in str(caught.value)


def test_a_model_with_another_tokenizer_is_refused(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    file = folder / "rm-2" / "tokenizer.json"
    stored = json.loads(file.read_text())
    vocabulary = stored["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(stored))
    config = config_of(folder, {"kind": "model", "models": [folder / "rm-2"]})
    with pytest.raises(UserError, match="another tokenizer than the policy") as caught:
        RewardMix(setting(folder, tokenizer, config))
    assert "\n" not in str(caught.value)


def test_a_run_that_goes_on_must_find_the_same_rules(folder: Path) -> None:
    part = {"kind": "function", "function": "polite", "file": folder / "rules.py"}
    config, directory = config_of(folder, part), RunDirectory(folder / "run")
    before = mix_identities(config, directory)
    assert before == mix_identities(config, directory) != []
    (folder / "rules.py").write_text(RULES.replace("please", "thanks"))
    assert mix_identities(config, directory) != before


@pytest.mark.slow
def test_ppo_reports_every_part_of_its_reward(
    tiny_run: Path, tmp_path: Path, finished: Callable[..., str]
) -> None:
    (tmp_path / "rules.py").write_text(RULES)
    mix = "[{kind: model}, {kind: function, name: polite, function: polite, file: %s}]"
    finished(
        "run", "--config", "tiny", "--stage", "ppo", "--run-dir", str(tmp_path / "run"),
        "--set", f"ppo.policy={tiny_run / 'sft' / 'final'}",
        "--set", f"ppo.reward_model={tiny_run / 'rm' / 'final'}",
        "--set", f"reward.mix={mix % (tmp_path / 'rules.py')}",
    )  # fmt: skip
    mixed = read_metrics(tmp_path / "run" / "ppo" / "metrics.jsonl")
    alone = read_metrics(tiny_run / "ppo" / "metrics.jsonl")
    assert {"reward/model", "reward/polite", "reward/gated"} <= set(mixed[0])
    assert mixed[0]["objective/scores"] == pytest.approx(alone[0]["objective/scores"], abs=1e-4)
