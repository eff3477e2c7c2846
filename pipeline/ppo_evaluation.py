"""PPO against SFT on held-out prompts: reward, KL, diversity, and who is preferred."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from align.pipeline import ranks
from align.pipeline.answers import (
    EVALUATION_STEP,
    answer_text,
    evaluation_settings,
    sample_answers,
)
from align.pipeline.config import RunConfig
from align.pipeline.ppo_metrics import distinct2
from align.pipeline.ppo_models import Models
from align.pipeline.prompts import EncodedPrompt
from align.pipeline.run_directory import RunDirectory, update_summary, write_json
from align.pipeline.stage_log import StageLog
from align.pipeline.texts import Texts
from align.policy.kl import k1
from align.policy.model import load_causal_lm
from align.policy.rollout import Sample
from align.reward.taste import taste

SHOWN = 12
"""Prompts whose answers stand side by side in the report."""


@dataclass(frozen=True)
class Compared:
    """Held-out prompts with one answer of each model, sampled with the same noise."""

    prompts: Sequence[EncodedPrompt]
    sft: Sequence[Sample]
    sft_rewards: Sequence[float]
    ppo: Sequence[Sample]
    ppo_rewards: Sequence[float]
    base: Sequence[Sample]
    """Of the base model, to the first `SHOWN` prompts."""
    kl: float
    """KL of PPO from SFT on PPO's answers, in nats per answer."""


def base_answers(
    prompts: Sequence[EncodedPrompt], config: RunConfig, tokenizer: PreTrainedTokenizerBase
) -> list[Sample]:
    """What the untrained model says to the prompts that the report shows."""
    return sample_answers(
        load_causal_lm(config.model.path, config.model),
        tokenizer,
        [prompt.ids for prompt in prompts[:SHOWN]],
        evaluation_settings(config, tokenizer),
        (config.seed, EVALUATION_STEP),
    )


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Share of prompts on which ours is higher; ties count half."""
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True)]
    return sum(wins) / len(wins)


def write_evaluation(
    directory: RunDirectory,
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    compared: Compared,
) -> dict[str, Any]:
    """`ppo/evaluation.json` and the run's `win_rate`, `kl` and `distinct2_ratio`.

    Only where the annotators are simulated is there a taste to say who is preferred; elsewhere
    `win_rate` is null.
    """
    sft_texts = [answer_text(tokenizer, answer) for answer in compared.sft]
    ppo_texts = [answer_text(tokenizer, answer) for answer in compared.ppo]
    simulated = any(source.format == "simulated" for source in config.data.feedback)
    preferred = win_rate([*map(taste, ppo_texts)], [*map(taste, sft_texts)])
    diversity = {
        name: distinct2([answer.response_ids for answer in answers])
        for name, answers in (("sft", compared.sft), ("ppo", compared.ppo))
    }
    numbers: dict[str, Any] = {
        "win_rate": preferred if simulated else None,
        "kl": compared.kl,
        "distinct2_ratio": diversity["ppo"] / diversity["sft"] if diversity["sft"] else None,
    }
    update_summary(directory, **numbers)
    details = {
        "prompts": len(compared.prompts),
        "reward_before": sum(compared.sft_rewards) / len(compared.sft_rewards),
        "reward_after": sum(compared.ppo_rewards) / len(compared.ppo_rewards),
        "reward_win_rate": win_rate(compared.ppo_rewards, compared.sft_rewards),
        "samples": [
            {
                "prompt": prompt.text,
                "base": answer_text(tokenizer, base),
                "sft": sft_texts[row],
                "ppo": ppo_texts[row],
                "sft_reward": compared.sft_rewards[row],
                "ppo_reward": compared.ppo_rewards[row],
            }
            for row, (prompt, base) in enumerate(zip(compared.prompts, compared.base, strict=False))
        ],
    }
    report = numbers | details
    write_json(directory.stage("ppo") / "evaluation.json", report)
    return report


def show(
    answers: Sequence[Sample],
    prompts: Sequence[EncodedPrompt],
    models: Models,
    log: StageLog,
    step: int,
) -> float:
    """Mean reward of answers to held-out prompts; the first of them go to `samples.jsonl`."""
    messages = [prompt.messages for prompt in prompts]
    scores = models.rewards(_texts(prompts, answers), messages).total_B.tolist()
    texts = [answer_text(models.tokenizer, one) for one in answers[:SHOWN]]
    log.samples(step, [*zip((prompt.text for prompt in prompts), texts, scores, strict=False)])
    return float(sum(scores) / len(scores))


def compare(
    before: Sequence[Sample],
    after: Sequence[Sample],
    prompts: Sequence[EncodedPrompt],
    models: Models,
    config: RunConfig,
) -> Compared:
    """The policy against its reference, and against the base model for the eye."""
    texts = _texts(prompts, after)
    messages = [prompt.messages for prompt in prompts]
    logprobs_BT, *_ = models.logprobs(texts)
    kl_BT = k1(logprobs_BT, models.reference_logprobs(texts))
    return Compared(
        prompts=prompts,
        sft=before,
        sft_rewards=models.rewards(_texts(prompts, before), messages).total_B.tolist(),
        ppo=after,
        ppo_rewards=models.rewards(texts, messages).total_B.tolist(),
        base=ranks.on_main(lambda: base_answers(prompts, config, models.tokenizer)),
        kl=float(kl_BT.sum(dim=1).mean()),
    )


def _texts(prompts: Sequence[EncodedPrompt], answers: Sequence[Sample]) -> Texts:
    return Texts([prompt.ids for prompt in prompts], [a.response_ids for a in answers])
