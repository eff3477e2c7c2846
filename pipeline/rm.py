"""Stage 2: the reward model.

Raw feedback of every kind becomes one table of preference pairs, `rm/pairs.parquet`. A copy of the
SFT model with a scalar head learns to score the preferred answer of each pair higher. The answers
of a group (one prompt, one criterion) go through the model once, however many pairs they form, and
every group weighs the same. Held-out prompts tell how far to trust the result:
`rm/evaluation.json`.

    align run --stage rm --config configs/demo.yaml
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.batches import Item, epoch_order, micro_batches
from align.pipeline import ranks
from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.engine import Engine
from align.pipeline.export import publish
from align.pipeline.feedback import collect
from align.pipeline.groups import Group, encode_groups, fingerprint_of
from align.pipeline.launch import Shares
from align.pipeline.progress import note
from align.pipeline.reward_report import outcomes_of, write_evaluation
from align.pipeline.run_directory import RunDirectory
from align.pipeline.stage_log import StageLog
from align.pipeline.texts import Texts, empty_batch
from align.policy.logprobs import text_scores
from align.policy.model import (
    TokenScores,
    add_lora,
    check_context,
    load_scalar_model,
    load_tokenizer,
)
from align.policy.places import identity_of
from align.reward.loss import centering_loss, preference_loss
from align.reward.reliability import Outcome, summarise


def run(config: RunConfig, directory: RunDirectory, _: Shares) -> None:
    """Train and publish `rm/final`."""
    source = config.rm.model or directory.need("sft")
    check_context(source, config.model, config.data.max_length)
    tokenizer = load_tokenizer(source, config.model)
    pairs = ranks.on_main(lambda: collect(config, directory, source, tokenizer))
    train, held_out = encode_groups(pairs, tokenizer, config)
    if ranks.is_main():
        note(f"{_pairs(train)} pairs in {len(train)} groups to learn, {_pairs(held_out)} held out")

    model: Any = load_scalar_model(source, config.model, config.seed)
    own_pad_token(tokenizer, model)
    if config.model.lora:
        model = add_lora(model, config.model.lora, config.seed)
    per_epoch = -(-len(train) // config.rm.batch_size)
    steps = config.rm.epochs * per_epoch
    engine = Engine(TokenScores(model), config.rm.learning_rate, steps, config.train)

    engines = {"reward": engine.deepspeed}
    who_counts = config.feedback.annotators, config.feedback.eligibility.profiles
    read = [source, *who_counts, *(one.path for one in config.data.feedback)]
    data = [*(identity_of(path) for path in read if path), fingerprint_of(train)]
    checkpoints = Checkpoints(directory, "rm", config, data, steps)
    checkpoints.restore(engines)

    def judge() -> list[Outcome]:
        return outcomes_of(engine, held_out, config.train.micro_batch_tokens, engine.device)

    with StageLog(directory.stage("rm"), "rm", steps, checkpoints.steps_done) as log:
        for step in range(checkpoints.steps_done, steps):
            order = epoch_order(len(train), config.seed, step // per_epoch)
            first = step % per_epoch * config.rm.batch_size
            batch = [train[row] for row in order[first : first + config.rm.batch_size]]
            metrics = _train_on(batch, engine, config) | engine.step(step)
            if config.train.eval_every and (step + 1) % config.train.eval_every == 0:
                with log.timed("evaluation"):
                    metrics |= {f"eval/{name}": x for name, x in summarise(judge()).items()}
            log.step(step + 1, metrics, tokens=sum(group.texts.tokens for group in batch))
            checkpoints.after(step + 1, engines)
    judged = judge()
    if ranks.is_main():
        write_evaluation(directory, judged, held_out, config)
    publish(model, tokenizer, config, "rm", directory.final("rm"))


def _train_on(groups: list[Group], engine: Engine, config: RunConfig) -> dict[str, float]:
    """Accumulate the gradient of one batch of groups; its metrics over all ranks."""
    items = [Item(len(group.texts), group.longest) for group in groups]
    plan = micro_batches(items, config.train.micro_batch_tokens, ranks.world_size())
    loss_sum = torch.zeros((), dtype=torch.float64)
    outcomes: list[Outcome] = []
    for batch in plan[ranks.rank()]:
        if not batch:
            engine.backward(0 * text_scores(engine, empty_batch(engine.device)).sum())
            continue
        loss, batch_outcomes = _loss([groups[index] for index in batch], engine, config)
        engine.backward(loss / len(groups))
        loss_sum += loss.detach().cpu()
        outcomes += batch_outcomes
    everywhere = [outcome for part in ranks.gather(outcomes) for outcome in part]
    return {
        "loss": float(ranks.sum_over_ranks(loss_sum)) / len(groups),
        **summarise(everywhere),
    }


def _loss(groups: list[Group], engine: Engine, config: RunConfig) -> tuple[Tensor, list[Outcome]]:
    """Weighted loss summed over the pairs, and how each of them came out.

    Each answer goes through the model once, however many pairs it is in.
    """
    texts = Texts(
        [ids for group in groups for ids in group.texts.prompts],
        [ids for group in groups for ids in group.texts.responses],
    )
    scores_B = text_scores(engine, texts.pick(range(len(texts)), engine.device))
    offsets = [sum(len(group.texts) for group in groups[:i]) for i in range(len(groups))]
    rows = [(pair, at) for group, at in zip(groups, offsets, strict=True) for pair in group.pairs]
    device = scores_B.device
    chosen_P = scores_B[torch.tensor([pair.chosen + at for pair, at in rows], device=device)]
    rejected_P = scores_B[torch.tensor([pair.rejected + at for pair, at in rows], device=device)]
    target_P = torch.tensor([pair.learnt_prob for pair, _ in rows], device=device)
    margin_P = torch.tensor([pair.margin for pair, _ in rows], device=device)
    weight_P = torch.tensor([pair.weight for pair, _ in rows], device=device)
    preference_P = preference_loss(chosen_P, rejected_P, target_P, margin_P)
    centering_P = centering_loss(chosen_P, rejected_P)
    loss = (weight_P * (preference_P + config.rm.centering_coef * centering_P)).sum()
    gaps = (chosen_P - rejected_P).tolist()
    return loss, [
        Outcome(gap, pair.target_prob, pair.weight)
        for gap, (pair, _) in zip(gaps, rows, strict=True)
    ]


def own_pad_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Give tokenizer and model a pad token that is not EOS.

    Stock classes read the score at the last id that is not the pad id: with pad == eos that is
    the token before EOS (huggingface/trl#3091).
    """
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": "<|align_pad|>"})
    if len(tokenizer) > model.config.vocab_size:
        known = model.config.vocab_size
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        # Nobody attends to padding. Random rows, which LoRA freezes, would not come back on resume.
        embeddings: Any = model.get_input_embeddings()
        with torch.no_grad():
            embeddings.weight[known:] = 0
    model.config.pad_token_id = tokenizer.pad_token_id


def _pairs(groups: list[Group]) -> int:
    return sum(len(group.pairs) for group in groups)
