"""The rule-conditional classifier: p(an answer breaks a rule), for any rule by its text.

It learns from rule judgements as they were made, before they become pairs, and is a model of its
own, `rm/rules/final`: `reward.mix` takes it as a part of the reward. Training is short, so one that
is stopped begins anew.

Shapes: B cases, R rules.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from align.data.batches import epoch_order
from align.data.chat import encode_prompt
from align.data.config import FeedbackSource
from align.data.errors import UserError
from align.data.feedback import read_feedback
from align.data.schemas import Record
from align.data.splits import Split
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.export import publish
from align.pipeline.progress import note
from align.pipeline.run_directory import RunDirectory, write_json
from align.pipeline.texts import Texts, empty_batch, per_text
from align.policy.adapters import add_adapter
from align.policy.logprobs import text_scores
from align.policy.model import TokenScores, load_scalar_model
from align.policy.pad_token import own_pad_token
from align.reward.feedback.rules import UNSURE
from align.reward.loss import violation_loss
from align.reward.reliability import auc
from align.reward.rule_questions import RuleCase, cases_of, rule_texts


def train_rule_classifier(
    config: RunConfig,
    directory: RunDirectory,
    source: Path,
    tokenizer: PreTrainedTokenizerBase,
    splits: Mapping[str, Split],
) -> None:
    """Publish `rm/rules/final`, unless it is there; on all ranks.

    `splits` by prompt_id are those of the preference table.
    """
    final = classifier_folder(directory)
    if final.is_dir():
        return
    records = ranks.on_main(lambda: _records(config, directory))
    cases = _fitting(cases_of(records, splits, config.data.held_out), tokenizer, config)
    train = [one for one in cases if one.split == "train"]
    model: Any = load_scalar_model(source, config.model, config.seed)
    own_pad_token(tokenizer, model)
    model.config.rules = rule_texts(records)
    if config.model.adapter:
        model = add_adapter(model, config.model.adapter, config.seed)
    size = config.rm.batch_size
    per_epoch = -(-len(train) // size)
    engine = Engine(
        TokenScores(model), config.rm.learning_rate, config.rm.epochs * per_epoch, config.train
    )
    for epoch in range(config.rm.epochs):
        order = epoch_order(len(train), config.seed, epoch)
        for place in range(per_epoch):
            batch = [train[row] for row in order[place * size : (place + 1) * size]]
            _train_on(batch, tokenizer, engine, config)
            engine.step(epoch * per_epoch + place)
    _evaluate(cases, tokenizer, engine, config, directory)
    publish(model, tokenizer, config, "rm", final)


def classifier_folder(directory: RunDirectory) -> Path:
    """Where a run's classifier lies."""
    return directory.stage("rm") / "rules" / "final"


def question_texts(
    questions: list[list[dict[str, str]]], tokenizer: PreTrainedTokenizerBase
) -> Texts:
    """Questions in token ids; the classifier answers at the last one."""
    return Texts([encode_prompt(tokenizer, one) for one in questions], [[] for _ in questions])


def _records(config: RunConfig, directory: RunDirectory) -> list[Record]:
    """The raw feedback of the run, what simulated annotators said included."""
    said = directory.stage("rm") / "feedback" / "rule.jsonl"
    sources = [source for source in config.data.feedback if source.path is not None]
    if said.exists():
        sources.append(FeedbackSource(format="records", path=said))
    records = read_feedback(sources, config.data.max_rejected, None)
    if not any(record["kind"] == "rule" and record["severity"] != UNSURE for record in records):
        raise UserError(
            "rm.rule_classifier: no rule judgement among the feedback: add a source that has some "
            "to data.feedback, or set it to false"
        )
    return records


def _fitting(
    cases: list[RuleCase], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> list[RuleCase]:
    """Those within the budget of a micro-batch, the longest text that may go through the model."""
    texts = question_texts([one.question for one in cases], tokenizer).prompts
    most = config.train.micro_batch_tokens
    fitting = [one for one, ids in zip(cases, texts, strict=True) if len(ids) <= most]
    counts = {split: sum(one.split == split for one in fitting) for split in ("train", "test")}
    if not counts["train"]:
        raise UserError(
            f"rm.rule_classifier: none of {len(cases)} rule judgements to train on fits "
            f"train.micro_batch_tokens ({most})"
        )
    if ranks.is_main():
        note(f"{counts['train']} rule judgements to learn, {counts['test']} held out")
    return fitting


def _train_on(
    cases: list[RuleCase], tokenizer: PreTrainedTokenizerBase, engine: Engine, config: RunConfig
) -> None:
    texts = question_texts([one.question for one in cases], tokenizer)
    severity_B = torch.tensor([float(one.severity) for one in cases])
    plan = texts.micro_batches(range(len(texts)), config.train.micro_batch_tokens)
    for rows in plan[ranks.rank()]:
        if not rows:
            engine.backward(0 * text_scores(engine, empty_batch(engine.device)).sum())
            continue
        logits_B = text_scores(engine, texts.pick(rows, engine.device))
        loss_B = violation_loss(logits_B, severity_B[rows].to(engine.device))
        engine.backward(loss_B.sum() / len(cases))


def _evaluate(
    cases: list[RuleCase],
    tokenizer: PreTrainedTokenizerBase,
    engine: Engine,
    config: RunConfig,
    directory: RunDirectory,
) -> None:
    """`rm/rules/evaluation.json`: AUC on held-out answers, over all rules and by rule."""
    held_out = [one for one in cases if one.split == "test"]
    if not held_out:
        return
    texts = question_texts([one.question for one in held_out], tokenizer)
    budget = config.train.micro_batch_tokens
    logits_B: Tensor = per_text(
        lambda batch: text_scores(engine, batch), texts, budget, engine.device
    )
    if not ranks.is_main():
        return
    said = [*zip(logits_B.tolist(), held_out, strict=True)]
    report: dict[str, Any] = {"n": len(held_out), "auc": _auc(said), "by_rule": {}}
    for rule in sorted({one.rule_id for one in held_out}):
        report["by_rule"][rule] = _auc([pair for pair in said if pair[1].rule_id == rule])
    write_json(directory.stage("rm") / "rules" / "evaluation.json", report)


def _auc(said: list[tuple[float, RuleCase]]) -> float | None:
    return auc([logit for logit, _ in said], [one.severity > UNSURE for _, one in said])
