"""Stage 2: the reward model.

Raw feedback of every kind becomes one table of preference pairs, `rm/pairs.parquet`. A copy of the
SFT model with a scalar head learns to score the preferred answer of each pair higher. The answers
of a group (one prompt, one criterion) go through the model once, however many pairs they form, and
every group weighs the same. Held-out prompts tell how far to trust the result:
`rm/evaluation.json`.

    align run --stage rm --config configs/demo.yaml
"""

from typing import Any

from torch import Tensor

from align.data.batches import epoch_order
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
from align.pipeline.reward_units import normalize
from align.pipeline.rm_update import packs, train_on
from align.pipeline.rule_classifier import train_rule_classifier
from align.pipeline.run_directory import RunDirectory
from align.pipeline.stage_log import StageLog
from align.policy.adapters import add_adapter
from align.policy.model import (
    TokenScores,
    check_context,
    load_scalar_model,
    load_tokenizer,
)
from align.policy.pad_token import own_pad_token
from align.policy.places import identity_of
from align.policy.reward_heads import TwoHeads, set_reward_units
from align.reward.reliability import Outcome, summarise


def run(config: RunConfig, directory: RunDirectory, _: Shares) -> None:
    """Train and publish `rm/final`."""
    source = config.rm.model or directory.need("sft")
    check_context(source, config.model, config.data.max_length)
    tokenizer = load_tokenizer(source, config.model)
    pairs = ranks.on_main(lambda: collect(config, directory, source, tokenizer))
    if config.rm.rule_classifier:
        splits = {row["prompt_id"]: row["split"] for row in pairs}
        train_rule_classifier(config, directory, source, tokenizer, splits)
    train, held_out = encode_groups(pairs, tokenizer, config)
    if ranks.is_main():
        note(f"{_pairs(train)} pairs in {len(train)} groups to learn, {_pairs(held_out)} held out")

    model: Any = load_scalar_model(source, config.model, config.seed)
    set_reward_units(model, shift=0, scale=1)  # it learns what its head says
    own_pad_token(tokenizer, model)
    if config.model.adapter:
        model = add_adapter(model, config.model.adapter, config.seed)
    per_epoch = -(-len(train) // config.rm.batch_size)
    steps = config.rm.epochs * per_epoch
    heads = TwoHeads if config.rm.auxiliary else TokenScores
    engine = Engine(heads(model), config.rm.learning_rate, steps, config.train)

    engines = {"reward": engine.deepspeed}
    who_counts = config.feedback.annotators, config.feedback.eligibility.profiles
    read = [source, *who_counts, *(one.path for one in config.data.feedback)]
    data = [*(identity_of(path) for path in read if path), fingerprint_of(train)]
    checkpoints = Checkpoints(directory, "rm", config, data, steps)
    checkpoints.restore(engines)
    if config.rm.packing and not packs(engine, config):
        note("answers are padded: the model's attention does not keep packed ones apart")

    def scores(ids_BL: Tensor) -> Tensor:
        outputs: Tensor = engine(ids_BL)
        return outputs[..., 0] if config.rm.auxiliary else outputs

    def judge() -> list[Outcome]:
        return outcomes_of(scores, held_out, config.train.micro_batch_tokens, engine.device)

    with StageLog(directory.stage("rm"), "rm", steps, checkpoints.steps_done) as log:
        for step in range(checkpoints.steps_done, steps):
            order = epoch_order(len(train), config.seed, step // per_epoch)
            first = step % per_epoch * config.rm.batch_size
            batch = [train[row] for row in order[first : first + config.rm.batch_size]]
            metrics = train_on(batch, engine, config) | engine.step(step)
            if config.train.eval_every and (step + 1) % config.train.eval_every == 0:
                with log.timed("evaluation"):
                    metrics |= {f"eval/{name}": x for name, x in summarise(judge()).items()}
                if step < per_epoch:  # in the first epoch every pair is new to the model
                    seen = order[: first + config.rm.batch_size]
                    metrics["eval/pairs"] = _pairs([train[row] for row in seen])
            log.step(step + 1, metrics, tokens=sum(group.texts.tokens for group in batch))
            checkpoints.after(step + 1, engines)
    judged = judge()
    if ranks.is_main():
        write_evaluation(directory, judged, held_out, config)
    normalize(model, scores, engine.device, tokenizer, config, directory)
    publish(model, tokenizer, config, "rm", directory.final("rm"))


def _pairs(groups: list[Group]) -> int:
    return sum(len(group.pairs) for group in groups)
