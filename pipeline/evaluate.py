"""`align eval`: what a stage's published model is worth, from the files of its run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from align.data.schemas import Preference
from align.pipeline.answers import EVALUATION_STEP, evaluation_settings, sample_answers
from align.pipeline.config import RunConfig
from align.pipeline.groups import encode_groups
from align.pipeline.launch import Shares, launch
from align.pipeline.loading import load_config
from align.pipeline.ppo_evaluation import Compared, base_answers, write_evaluation
from align.pipeline.progress import note, section
from align.pipeline.prompts import read_encoded_prompts
from align.pipeline.reward_mix import RewardMix
from align.pipeline.reward_parts import Setting
from align.pipeline.reward_probe import probe
from align.pipeline.reward_report import outcomes_of
from align.pipeline.reward_report import write_evaluation as write_reward_evaluation
from align.pipeline.run_directory import RunDirectory, locked
from align.pipeline.sft import held_out_losses
from align.pipeline.sft_data import read_splits
from align.pipeline.texts import Texts, per_text
from align.policy.kl import k1
from align.policy.logprobs import response_logprobs
from align.policy.model import (
    TokenScores,
    freeze,
    load_causal_lm,
    load_scalar_model,
    load_tokenizer,
)
from align.reward.pairs_file import read_pairs

CPU_OR_GPU = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def evaluate(run_dir: Path, stage: str, overrides: Sequence[str] = ()) -> None:
    """Print what the stage's model is worth; rm and ppo also go to the run's summary."""
    directory = RunDirectory(run_dir)
    config = load_config(directory.config, ("train.ranks=1", *overrides))
    directory.need(stage)
    judge = {"sft": _sft, "rm": _rm, "ppo": _ppo}[stage]

    def work(_: Shares) -> int:
        numbers = judge(config, directory)
        section(f"{stage}: {directory.final(stage)}")
        for name, value in numbers.items():
            if value is not None:  # who wins is known only where annotators are simulated
                note(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
        return 0

    with locked(directory):
        launch(work, config, directory, ray_needed=False)


def _sft(config: RunConfig, directory: RunDirectory) -> dict[str, Any]:
    final = directory.final("sft")
    _, held_out = read_splits(config, directory, load_tokenizer(final, config.model))
    model = freeze(load_causal_lm(final, config.model)).to(CPU_OR_GPU)
    losses = held_out_losses(model, held_out, config.train.micro_batch_tokens, CPU_OR_GPU)
    examples = sum(map(len, held_out.values()))
    return {"held_out_examples": examples} | {f"held_out_{name}": x for name, x in losses.items()}


def _rm(config: RunConfig, directory: RunDirectory) -> dict[str, Any]:
    final = directory.final("rm")
    pairs: list[Preference] = read_pairs(directory.stage("rm") / "pairs.parquet")
    _, held_out = encode_groups(pairs, load_tokenizer(final, config.model), config)
    model = _token_scores(final, config)
    budget = config.train.micro_batch_tokens
    outcomes = outcomes_of(model, held_out, budget, CPU_OR_GPU, scale=model.scale)
    more = {}
    if any(source.format == "simulated" for source in config.data.feedback):
        policy = config.rm.model or directory.need("sft")
        more = probe(config, directory, policy, model, CPU_OR_GPU)
    report = write_reward_evaluation(directory, outcomes, held_out, config, more)
    return _reward_numbers(report)


def _reward_numbers(report: dict[str, Any]) -> dict[str, Any]:
    """What is worth a line on the terminal; `rm/evaluation.json` has the rest."""
    numbers = {name: report[name] for name in ("accuracy", "log_loss", "ece")}
    for name, words in (
        ("by_kind", "{} pairs"),
        ("by_criterion", "{}"),
        ("by_agreement", "pairs by agreement, {}"),
        ("by_length", "pairs by length, {}"),
    ):
        for label, share in report[name].items():
            interval = f"{share['low']:.3f} to {share['high']:.3f}, n {share['n']}"
            numbers[f"accuracy on {words.format(label)}"] = f"{share['accuracy']:.3f} ({interval})"
    if bias := report["length_bias"]:
        numbers["longer answer scored higher"] = bias["longer_scored"]
        numbers["longer answer preferred by people"] = bias["longer_chosen"]
    for point in report.get("best_of_n", ()):
        numbers[f"gold score of the best of {point['n']}"] = point["gold"]
    if "against_taste" in report:
        numbers["accuracy against the taste"] = report["against_taste"]["accuracy"]
    return numbers


def _ppo(config: RunConfig, directory: RunDirectory) -> dict[str, Any]:
    tokenizer = load_tokenizer(directory.final("ppo"), config.model)
    _, prompts = read_encoded_prompts(config, directory, tokenizer)
    reference_path = config.ppo.policy or directory.need("sft")
    reference: Any = freeze(load_causal_lm(reference_path, config.model)).to(CPU_OR_GPU)
    policy: Any = freeze(load_causal_lm(directory.final("ppo"), config.model)).to(CPU_OR_GPU)
    setting = Setting(
        config, directory, tokenizer, lambda path: _token_scores(path, config), CPU_OR_GPU
    )
    rewards, messages = RewardMix(setting), [prompt.messages for prompt in prompts]
    ids = [prompt.ids for prompt in prompts]
    settings, key = evaluation_settings(config, tokenizer), (config.seed, EVALUATION_STEP)
    before = sample_answers(reference, tokenizer, ids, settings, key)
    after = sample_answers(policy, tokenizer, ids, settings, key)
    texts_before = Texts(ids, [answer.response_ids for answer in before])
    texts = Texts(ids, [answer.response_ids for answer in after])

    def logprobs(model: Any) -> torch.Tensor:
        temperature, budget = config.rollout.temperature, config.train.micro_batch_tokens
        return per_text(
            lambda batch: response_logprobs(model, batch, temperature)[0],
            texts,
            budget,
            CPU_OR_GPU,
        )

    compared = Compared(
        prompts=prompts,
        sft=before,
        sft_rewards=rewards(texts_before, messages).total_B.tolist(),
        ppo=after,
        ppo_rewards=rewards(texts, messages).total_B.tolist(),
        base=base_answers(prompts, config, tokenizer),
        kl=float(k1(logprobs(policy), logprobs(reference)).sum(dim=1).mean()),
    )
    report = write_evaluation(directory, config, tokenizer, compared)
    return {name: value for name, value in report.items() if name != "samples"}


def _token_scores(path: Path, config: RunConfig) -> TokenScores:
    model = TokenScores(load_scalar_model(path, config.model, config.seed))
    freeze(model)
    return model.to(CPU_OR_GPU)
