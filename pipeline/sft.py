"""Stage 1: supervised fine-tuning.

The base model learns to answer: next-token loss on the assistant's tokens only. `data/` renders
the chat template, masks and truncates; rows are packed with examples that never see each other.
The loop is trl's SFTTrainer on a DeepSpeed engine. The loss averages over the target tokens of
the whole optimiser step, so neither the micro-batch size nor the number of ranks changes it.

    align run --stage sft --config configs/demo.yaml
"""

from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import SFTConfig, SFTTrainer
from trl.data_utils import pack_dataset

from align.data.batches import fingerprint, stream
from align.data.chat import Encoded
from align.data.errors import UserError
from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.engine import (
    ADAM_EPSILON,
    adamw,
    check_precision,
    clip_before_step,
    grad_norm,
    quiet,
    schedule_factor,
    zero_config,
)
from align.pipeline.export import publish
from align.pipeline.launch import Shares
from align.pipeline.run_directory import RunDirectory
from align.pipeline.sft_data import read_splits
from align.pipeline.stage_log import StageLog
from align.pipeline.texts import Texts, per_text
from align.policy.adapters import add_adapter
from align.policy.logprobs import response_logprobs
from align.policy.model import check_context, load_causal_lm, load_tokenizer
from align.policy.places import identity_of


def run(config: RunConfig, directory: RunDirectory, _: Shares) -> None:
    """Train and publish `sft/final`."""
    source = config.sft.model or config.model.path
    check_context(source, config.model, config.data.max_length)
    tokenizer = load_tokenizer(source, config.model)
    rows, held_out = read_splits(config, directory, tokenizer)
    train_rows = packed(rows, config)
    steps = config.sft.epochs * len(train_rows) // config.sft.batch_size
    if steps == 0:
        raise UserError(
            f"sft.batch_size ({config.sft.batch_size}) is larger than the data: "
            f"{len(train_rows)} rows in {config.sft.epochs} epochs. Lower sft.batch_size"
        )
    model: Any = load_causal_lm(source, config.model)
    if config.model.adapter:
        model = add_adapter(model, config.model.adapter, config.seed)

    data = [identity_of(source), fingerprint(train_rows["input_ids"], train_rows["labels"])]
    checkpoints = Checkpoints(directory, "sft", config, data, steps)
    done = checkpoints.steps_done
    if done == steps:  # the run ended between its last step and its model
        checkpoints.restore_weights({"policy": model})
        publish(model, tokenizer, config, "sft", directory.final("sft"))
        return
    with StageLog(directory.stage("sft"), "sft", steps, done) as log:
        first, count = done * config.sft.batch_size, (steps - done) * config.sft.batch_size
        order = [row for _, row in stream(len(train_rows), config.seed, first, count)]
        trainer = _Trainer(
            model, tokenizer, train_rows.select(order), held_out, steps, config, log, checkpoints
        )
        trainer.train()
    # Otherwise transformers would shard every model that is made from here on, also on one rank.
    unset_hf_deepspeed_config()
    publish(model, tokenizer, config, "sft", directory.final("sft"))


class _Trainer(SFTTrainer):
    """SFTTrainer with our data order, learning-rate schedule, clipping and metrics."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        train_rows: Dataset,
        held_out: dict[str, list[Encoded]],
        steps: int,
        config: RunConfig,
        log: StageLog,
        checkpoints: Checkpoints,
    ) -> None:
        check_precision(config.train)
        self._steps = steps
        self._checkpoints = checkpoints
        self._config = config
        self._log = log
        self._clip: Any = None
        self._held_out = held_out
        self._tokens_before = 0
        with quiet():
            super().__init__(
                model=model,
                args=_arguments(config, steps - checkpoints.steps_done, log.directory),
                train_dataset=train_rows,
                processing_class=tokenizer,
            )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # The rows are already in the order of training, all epochs one after the other.
        return torch.utils.data.SequentialSampler(cast(Dataset, self.train_dataset))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule that all stages share."""
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            cast(torch.optim.Optimizer, optimizer or self.optimizer),
            lambda step: schedule_factor(
                step + self._checkpoints.steps_done, self._steps, self._config.train
            ),
        )
        return self.lr_scheduler

    def _prepare_for_training(self, *arguments: Any) -> Any:
        with quiet():
            prepared = super()._prepare_for_training(*arguments)  # type: ignore[no-untyped-call]
        self._clip = clip_before_step(self.deepspeed, self._config.train)
        self._checkpoints.restore({"policy": self.deepspeed})
        return prepared

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        # Asked before the optimiser steps, when the norm is not known yet: see `log`.
        return 0.0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called once a step, and with totals at the end, which nobody needs."""
        if "loss" not in logs:
            return
        step = self._checkpoints.steps_done + self.state.global_step
        every = self._config.train.eval_every
        means = {name: sum(values) / len(values) for name, values in self._metrics["train"].items()}
        self._metrics["train"].clear()
        metrics = {
            "loss": logs["loss"],
            "lr": self._config.sft.learning_rate
            * schedule_factor(step - 1, self._steps, self._config.train),
            "grad_norm": grad_norm(self.deepspeed, self._clip),
            "token_accuracy": means["mean_token_accuracy"],
        }
        if step == self._steps or (every and step % every == 0):
            with self._log.timed("evaluation"):
                budget = self._config.train.micro_batch_tokens
                engine: Any = self.deepspeed
                losses = held_out_losses(engine, self._held_out, budget, engine.device)
                metrics |= {f"eval/{name}": loss for name, loss in losses.items()}
        tokens = int(means["num_tokens"])
        self._log.step(step, metrics, tokens - self._tokens_before)
        self._tokens_before = tokens
        self._checkpoints.after(step, {"policy": self.deepspeed})


def held_out_losses(
    model: Callable[..., Any],
    held_out: Mapping[str, list[Encoded]],
    budget: int,
    device: torch.device,
) -> dict[str, float]:
    """Mean loss over all held-out answer tokens, in nats; and of each source, if there are more.

    `loss` is that of all, `loss/NAME` that of the source NAME; on all ranks.
    """
    examples = [one for rows in held_out.values() for one in rows]
    texts = Texts([one.prompt_ids for one in examples], [one.completion_ids for one in examples])
    logprobs_BT = per_text(
        lambda batch: response_logprobs(model, batch, temperature=1.0)[0], texts, budget, device
    ).double()
    places = {"loss": slice(None)}
    if len(held_out) > 1:
        ends = accumulate(map(len, held_out.values()))
        for (name, rows), end in zip(held_out.items(), ends, strict=True):
            places[f"loss/{name}"] = slice(end - len(rows), end)
    return {
        name: -float(logprobs_BT[place].sum()) / sum(map(len, texts.responses[place]))
        for name, place in places.items()
    }


def _arguments(config: RunConfig, steps: int, output: Path) -> SFTConfig:
    train = config.train
    rows = config.sft_rows_at_once
    accumulate = config.sft.batch_size // (rows * train.ranks)
    zero = zero_config(train) | {
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": accumulate,
        "optimizer": adamw(config.sft.learning_rate, train.weight_decay),
    }
    return SFTConfig(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulate,
        learning_rate=config.sft.learning_rate,
        adam_epsilon=ADAM_EPSILON,
        weight_decay=train.weight_decay,
        max_grad_norm=zero["gradient_clipping"],
        bf16=train.precision == "bf16",
        fp16=train.precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=train.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        deepspeed=zero,
        packing=config.sft.packing,
        max_length=config.data.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def packed(rows: Dataset, config: RunConfig) -> Dataset:
    """With packing, rows of whole examples end to end; `seq_lengths` has the length of each."""
    if not config.sft.packing or not len(rows):
        return rows
    return pack_dataset(rows, config.data.max_length, strategy="bfd")
