"""The parts of `reward.mix`, one function a kind: from the config to what scores answers.

Shapes: B answers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerBase

from align.data.errors import UserError
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.feedback_judge import local_judge
from align.pipeline.progress import note
from align.pipeline.rule_classifier import classifier_folder, question_texts
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts, per_text
from align.policy.logprobs import text_scores
from align.policy.model import load_tokenizer
from align.reward.judge.asking import Judge
from align.reward.judge.endpoint import EndpointJudge
from align.reward.judge.posting import Endpoint, Server
from align.reward.judge.rubric import load_rubric
from align.reward.loss import compliance
from align.reward.mix_config import RewardPart
from align.reward.rule_questions import question
from align.reward.signals.exchange import Exchange
from align.reward.signals.functions import function_scores, load_function
from align.reward.signals.judged import judge_scores
from align.reward.signals.mix import cautious, excess
from align.reward.signals.server import server_scores


class TokenModel(Protocol):
    """A scalar for every token, as `TokenScores` has it."""

    reads_packed: bool

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Of ids, and of positions if packed."""
        ...


Scorer = Callable[[Texts, list[Exchange]], Tensor]
"""A score for every answer, (B), the same on every rank."""


@dataclass(frozen=True)
class Setting:
    """What the parts are built from."""

    config: RunConfig
    directory: RunDirectory
    tokenizer: PreTrainedTokenizerBase
    """The policy's."""
    load: Callable[[Path], TokenModel]
    """A frozen model of token scores, by its folder."""
    device: torch.device


def check_same_tokens(
    tokenizer: PreTrainedTokenizerBase, reward_path: Path, config: RunConfig
) -> None:
    """A reward model reads the very ids that the policy wrote, so they must mean the same."""
    theirs = load_tokenizer(reward_path, config.model).get_vocab()
    for token, index in tokenizer.get_vocab().items():
        if theirs.get(token) != index:
            raise UserError(
                f"the reward model in {reward_path} has another tokenizer than the policy: "
                f"{token!r} is {index} for the policy and {theirs.get(token)} for it. Train a "
                "reward model from the same base, or leave out ppo.reward_model"
            )


def _model(part: RewardPart, setting: Setting) -> Scorer:
    config = setting.config
    paths = part.models or (config.ppo.reward_model or setting.directory.need("rm"),)
    for path in paths:
        check_same_tokens(setting.tokenizer, path, config)
    models = [setting.load(path) for path in paths]
    budget, device = config.train.micro_batch_tokens, setting.device

    def score(texts: Texts, _: list[Exchange]) -> Tensor:
        scores = [
            per_text(partial(text_scores, one), texts, budget, device, packed=one.reads_packed)
            for one in models
        ]
        if len(scores) == 1:
            return scores[0]
        return cautious(torch.stack(scores), part.uncertainty)

    return score


def _function(part: RewardPart, _: Setting) -> Scorer:
    assert part.function is not None  # the config demands it
    name, function = part.function, load_function(part.function, part.file)
    return _on_main(lambda exchanges: function_scores(function, name, exchanges))


def _server(part: RewardPart, _: Setting) -> Scorer:
    server = Server(**_server_fields(part))
    return _on_main(lambda exchanges: server_scores(server, exchanges, part.batch_size, note))


def _judge(part: RewardPart, setting: Setting) -> Scorer:
    assert part.rubric is not None and part.judge is not None  # the config demands it
    rubric = load_rubric(part.rubric)
    judge: Judge
    if part.url:
        endpoint = Endpoint(model=part.judge, **_server_fields(part))
        kept = setting.directory.stage("ppo") / f"{part.label}.replies.jsonl"
        judge = EndpointJudge(endpoint, kept)
    else:
        judge = local_judge(part.judge, setting.config)

    def scores(exchanges: list[Exchange]) -> list[float]:
        found, problems = judge_scores(judge, rubric, exchanges, part.prompt_class)
        if problems:
            first = next(iter(problems.values()))
            note(f"{part.label}: {len(problems)} answers without a judgement score 0: {first}")
        return found

    return _on_main(scores)


def _rules(part: RewardPart, setting: Setting) -> Scorer:
    path = part.models[0] if part.models else classifier_folder(setting.directory)
    if not path.is_dir():
        raise UserError(
            f"reward {part.label}: no rule classifier in {path}: set rm.rule_classifier to true "
            "and run `--stage rm`, or name one in `models`"
        )
    known = AutoConfig.from_pretrained(path).to_dict().get("rules", {})
    if unknown := [rule for rule in part.rules if rule not in known]:
        raise UserError(
            f"reward {part.label}: the classifier in {path} never learnt rule {unknown[0]}; it "
            f"knows {', '.join(sorted(known)) or 'none'}"
        )
    tokenizer = load_tokenizer(path, setting.config.model)
    model, budget = setting.load(path), setting.config.train.micro_batch_tokens

    def score(_: Texts, exchanges: list[Exchange]) -> Tensor:
        asked = [
            question(one.prompt, one.answer, known[rule])
            for rule in part.rules
            for one in exchanges
        ]
        texts = question_texts(asked, tokenizer)
        logits = per_text(
            partial(text_scores, model), texts, budget, setting.device, packed=model.reads_packed
        )
        return compliance(logits.view(len(part.rules), len(exchanges)))

    return score


def _length(part: RewardPart, _: Setting) -> Scorer:
    assert part.longest is not None  # the config demands it
    longest = part.longest
    return lambda texts, _: excess([*map(len, texts.responses)], longest)


SCORERS: dict[str, Callable[[RewardPart, Setting], Scorer]] = {
    "model": _model,
    "function": _function,
    "server": _server,
    "judge": _judge,
    "rules": _rules,
    "length": _length,
}


def _server_fields(part: RewardPart) -> dict[str, Any]:
    return {name: getattr(part, name) for name in ("url", "key_variable", "timeout", "deadline")}


def _on_main(scores: Callable[[list[Exchange]], list[float]]) -> Scorer:
    """Ask once, and tell all ranks."""
    return lambda _, exchanges: torch.tensor(ranks.on_main(lambda: scores(exchanges)))
