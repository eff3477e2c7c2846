"""One config for a whole run: the models of every section, and how a file becomes one.

No torch here: `align --help` and `align run --dry-run` answer in under half a second.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from align.data.config import DataConfig, Section
from align.data.mixture_config import MixtureConfig
from align.pipeline.submit.options import (
    KubernetesOptions,
    RayOptions,
    SkyPilotOptions,
    SlurmOptions,
)
from align.policy.config import EvaluationConfig, ModelConfig, PPOConfig, RolloutConfig
from align.reward.config import FeedbackConfig, RewardConfig
from align.reward.mix_config import MixConfig

STAGES = ("sft", "rm", "ppo")


class TrainConfig(Section):
    """How every stage trains."""

    ranks: int = Field(default=1, gt=0)
    """Training processes. One runs in the process, several as a Ray Train group."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of forward and backward passes; optimiser state stays fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO (Rajbhandari et al. 2020): 1 shards the optimiser, 2 gradients too, 3 weights
    too. In bf16 and fp16, 0 runs as 1: the same result, with fp32 master weights."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Keep the optimiser's state, or that and the weights, in CPU memory."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Clip the global gradient norm to this."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls to 0 after the warm-up."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    micro_batch_tokens: int = Field(default=4096, gt=0)
    """Tokens, padding included, that go through the model at once."""
    eval_every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 evaluates at the end only."""
    save_every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 leaves it to `save_minutes`."""
    save_minutes: float = Field(default=5.0, ge=0)
    """Minutes of work between checkpoints, beside `save_every`; 0 leaves it to that."""
    keep_last: int = Field(default=2, gt=0)
    """Newest checkpoints of a stage that stay on disk."""
    keep_every: int = Field(default=0, ge=0)
    """Checkpoints at multiples of so many steps stay as well; 0 keeps none of them."""
    upload: str | None = None
    """Copy each checkpoint to this place too, any that fsspec knows, such as `s3://bucket/run`; a
    run whose disk has none goes on from the newest copy."""

    @property
    def effective_zero_stage(self) -> int:
        """Half precision needs fp32 master weights, which DeepSpeed keeps well from stage 1 on."""
        return self.zero_stage if self.precision == "fp32" else max(1, self.zero_stage)

    @property
    def of_adapters(self) -> "TrainConfig":
        """How adapters train on a base that lies, or is sharded, by itself: they stay whole."""
        offload = "none" if self.offload == "none" else "optimizer"
        return self.model_copy(update={"zero_stage": min(self.zero_stage, 2), "offload": offload})

    @model_validator(mode="after")
    def _offload_needs_sharding(self) -> "TrainConfig":
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("train.offload: optimizer needs train.zero_stage 1, 2 or 3, not 0")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError(f"train.offload: all needs train.zero_stage 3, not {self.zero_stage}")
        return self


SFT_PRESETS: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 1e-5, "batch_size": 32, "epochs": 3},
    "lora": {"learning_rate": 2e-4, "batch_size": 16, "epochs": 3},
    "small": {"learning_rate": 2e-3, "batch_size": 16, "epochs": 2},
}
"""Smaller batches and learning rates than pre-training has."""


class SFTConfig(Section):
    """Stage 1: supervised fine-tuning on instructions."""

    preset: Literal["full", "lora", "small"] | None = None
    """Fills in what is not given of learning_rate, batch_size and epochs: `full` 1e-5, 32 and 3 for
    all weights of a large model, `lora` 2e-4, 16 and 3 for adapters, `small` 2e-3, 16 and 2 for a
    model of a few million weights."""
    epochs: int = Field(default=1, gt=0)
    """Passes over the instructions."""
    batch_size: int = Field(default=32, gt=0)
    """Rows per optimiser step; with packing, a row is `data.max_length` tokens of examples."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate."""
    packing: bool = True
    """Put several examples into a row; they never attend to each other."""
    model: Path | None = None
    """Start from this model instead of `model.path`."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") in SFT_PRESETS:
            return SFT_PRESETS[given["preset"]] | given
        return given


class ClusterConfig(Section):
    """Where Ray runs, and what a job on other machines asks for."""

    address: str = "local"
    """`local` starts Ray on this machine, `auto` finds a running one, or `host:port`."""
    cpus_per_rank: float | None = Field(default=None, gt=0)
    """Derived to fit when not given."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """Derived to fit when not given."""
    max_restarts: int = Field(default=3, ge=0)
    """How often a group of ranks starts again from the newest checkpoint after one of them died."""
    hang_minutes: float = Field(default=30.0, gt=0)
    """A rank that makes no progress for so long says where it hangs, and ends."""
    rollout_gpus: int | None = Field(default=None, ge=0)
    """GPUs for the rollout workers alone; 0 puts them on those of the ranks. If not given, one rank
    shares its GPU with them and several leave them one."""
    shared: Path | None = None
    """A folder that all machines of the cluster see under this path: jobs read what lies there and
    write their run directory there."""
    nodes: int = Field(default=1, gt=0)
    """Machines that `align submit` asks for and `align plan` reckons with."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs of each machine, likewise; 0 is a job on CPUs."""
    gpu_memory: float = Field(default=80.0, gt=0)
    """GiB of one GPU, for `align plan`."""
    node_memory: float | None = Field(default=None, gt=0)
    """GiB of memory of one machine, for `align plan`."""
    slurm: SlurmOptions = SlurmOptions()
    ray: RayOptions = RayOptions()
    kubernetes: KubernetesOptions = KubernetesOptions()
    skypilot: SkyPilotOptions = SkyPilotOptions()


class RunConfig(Section):
    """Everything a run needs; `config.yaml` in the run directory is this, resolved."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run directory is `runs/NAME`, unless `--run-dir` says otherwise."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    """Decides every random choice of the run."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    mixture: MixtureConfig = MixtureConfig()
    train: TrainConfig = TrainConfig()
    sft: SFTConfig = SFTConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    rm: RewardConfig = RewardConfig()
    reward: MixConfig = MixConfig()
    rollout: RolloutConfig = RolloutConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    ppo: PPOConfig = PPOConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def sft_rows_at_once(self) -> int:
        """The most rows within the token budget that divide a rank's share of the batch."""
        share = self.sft.batch_size // self.train.ranks
        most = self.train.micro_batch_tokens // self.data.max_length
        if self.sft.packing and self.model.attention != "flash_attention_2":
            # Packed rows lie end to end behind one dense mask, so attention costs the square of
            # their sum: on two cores two rows at a time beat one and four by a third, and sixteen
            # by half.
            most = min(most, 2)
        return max(rows for rows in range(1, min(share, most) + 1) if share % rows == 0)

    @model_validator(mode="after")
    def _mixtures_name_their_sources(self) -> "RunConfig":
        for key, mixture, sources in (
            ("instructions", self.mixture.instructions, self.data.instructions),
            ("prompts", self.mixture.prompts, self.data.prompts),
        ):
            if mixture is None:
                continue
            names = [source.named for source in sources]
            twice = [name for name in names if names.count(name) > 1]
            unknown = [share.name for share in mixture.sources if share.name not in names]
            if twice:
                raise ValueError(
                    f"mixture.{key}: two sources of data.{key} are called {twice[0]}: give a `name`"
                )
            if unknown:
                raise ValueError(
                    f"mixture.{key}.sources: no source of data.{key} is called {unknown[0]}; there "
                    f"are {', '.join(names) or 'none'}"
                )
            left_out = {one.name for one in mixture.sources if one.token_share or not one.quality}
            if names and left_out.issuperset(names):
                raise ValueError(
                    f"mixture.{key}: the weights sum to zero: leave a source that goes by rows"
                )
        return self

    @model_validator(mode="after")
    def _preset_suits_the_adapters(self) -> "RunConfig":
        if self.sft.preset is not None and (self.sft.preset == "lora") != bool(self.model.adapter):
            raise ValueError(
                f"sft.preset: {self.sft.preset} does not go "
                + ("with adapters: use lora" if self.model.adapter else "without model.lora")
            )
        return self

    @model_validator(mode="after")
    def _vllm_gets_merged_weights(self) -> "RunConfig":
        adapter = self.model.adapter
        if self.rollout.engine == "own" or adapter is None:
            return self
        if adapter.type.upper() != "LORA" or adapter.options.get("use_dora"):
            raise ValueError(
                "rollout.engine: vllm takes adapters of plain LoRA, not those of model.peft.type "
                f"{adapter.type}{' with use_dora' * bool(adapter.options.get('use_dora'))}: "
                "set rollout.engine to own"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        room = self.data.max_length - self.data.max_prompt_length
        if self.rollout.max_new_tokens > room:
            raise ValueError(
                f"rollout.max_new_tokens ({self.rollout.max_new_tokens}) exceeds data.max_length "
                f"- data.max_prompt_length ({room})"
            )
        if self.evaluation.min_new_tokens > self.rollout.max_new_tokens:
            raise ValueError(
                f"evaluation.min_new_tokens ({self.evaluation.min_new_tokens}) exceeds "
                f"rollout.max_new_tokens ({self.rollout.max_new_tokens})"
            )
        if self.train.micro_batch_tokens < self.data.max_length:
            raise ValueError(
                f"train.micro_batch_tokens ({self.train.micro_batch_tokens}) must hold one text of "
                f"data.max_length ({self.data.max_length})"
            )
        if self.model.attention == "flash_attention_2" and self.train.precision == "fp32":
            raise ValueError(
                "model.attention: flash_attention_2 needs train.precision bf16 or fp16, not fp32"
            )
        if self.rm.rankings != "pairs" and self.feedback.noise != "none":
            raise ValueError(
                f"rm.rankings ({self.rm.rankings}) and feedback.noise ({self.feedback.noise}): "
                "only pairs have a noise; set rm.rankings to pairs or feedback.noise to none"
            )
        apart, shards = self.cluster.rollout_gpus or 0, self.rollout.tensor_parallel_size
        if apart > self.rollout.workers * shards:
            raise ValueError(
                f"cluster.rollout_gpus ({apart}) exceeds rollout.workers ({self.rollout.workers}): "
                "a worker samples on one GPU, or on rollout.tensor_parallel_size"
            )
        if shards > 1 and self.cluster.rollout_gpus not in (None, self.rollout.workers * shards):
            raise ValueError(
                f"cluster.rollout_gpus ({apart}) must be rollout.workers x "
                f"rollout.tensor_parallel_size ({self.rollout.workers * shards}), or left out"
            )
        if apart and self.train.ranks == 1:
            raise ValueError(
                f"cluster.rollout_gpus ({apart}) needs train.ranks 2 or more: one rank shares its "
                "GPU with the workers"
            )
        if self.sft.batch_size % self.train.ranks:
            raise ValueError(
                f"sft.batch_size ({self.sft.batch_size}) must be a multiple of "
                f"train.ranks ({self.train.ranks})"
            )
        return self
