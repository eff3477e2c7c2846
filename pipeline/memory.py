"""How many bytes a process of a run needs, from sizes alone.

    states        weights, gradients, AdamW's moments: Rajbhandari et al. 2020, section 3
    activations   what backward needs of forward, counted op by op as Korthikanti et al. 2022
                  (arXiv:2205.05198, section 4.1) do for GPT, for the layers of today
    logits        fp32 copies of (positions, vocabulary)
    rollouts      weights, and the keys and values of every token: Pope et al. 2022

tests/test_pipeline_memory.py compares them with what torch allocates.
"""

from align.pipeline.config import RunConfig, TrainConfig
from align.policy.shapes import Shape

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
LIVE_PARAMETERS = 10**9
"""ZeRO 3 keeps so many gathered at once (DeepSpeed's stage3_max_live_parameters)."""
BUCKET = 5 * 10**7
"""Elements of DeepSpeed's buffer for gradients on their way. Its own size would take 2 GB of every
engine in fp32, however small the model."""
SCORED_LOGITS = 1
"""fp32 copies of the logits wherever log-probabilities are computed: their gradient takes their
place (`policy/logprobs.py`)."""
SAMPLED_LOGITS = 6
"""Likewise in the decode loop: two in fp32 and two in fp64."""

Parts = dict[str, float]
"""What for -> bytes."""


def training(shape: Shape, config: RunConfig, *, scalar: bool) -> tuple[Parts, float]:
    """States of one rank under an optimiser, and what a step adds while it is taken."""
    train, adapters = config.train, adapter_parameters(shape, config)
    whole = shape.scalar_parameters if scalar else shape.parameters
    states, step = _optimised(adapters or whole, train)
    return {"weights": BYTES[train.precision] * _resident(whole + adapters, train)} | states, step


def sharing(shape: Shape, config: RunConfig, *, engines: int) -> tuple[Parts, float]:
    """The same of PPO's `engines`, of which each trains adapters on one base."""
    train, adapters = config.train, adapter_parameters(shape, config)
    states, step = _optimised(adapters, train.of_adapters)
    base, own = frozen_weights(shape.parameters, train), BYTES[train.precision] * adapters
    states = {name: engines * value for name, value in states.items()}
    return {"weights": base + engines * own} | states, step


def adapter_parameters(shape: Shape, config: RunConfig) -> int:
    """Of one adapter; 0 where all weights are trained."""
    return shape.adapter_parameters(config.model.adapter) if config.model.adapter else 0


def _optimised(trained: int, train: TrainConfig) -> tuple[Parts, float]:
    """What an optimiser of so many parameters has beside them, and what its step adds."""
    size, zero, ranks = BYTES[train.precision], train.effective_zero_stage, train.ranks
    part = trained / ranks if zero else trained
    states = {
        "gradients": size * trained / (ranks if zero >= 2 else 1),
        # At ZeRO 0 it steps on the weights themselves, from 1 on also on fp32 copies of its part.
        "optimiser": (12 if zero else 8) * part if train.offload == "none" else 0.0,
        "gradient buffers": size * BUCKET if zero else 0.0,
    }
    # AdamW on many tensors at once makes a copy of all; ZeRO first makes fp32 gradients, and ZeRO 3
    # new weights.
    step = (4, 8, 8, 12)[zero] * part if train.offload == "none" else 0.0
    return states, step


def frozen_weights(parameters: float, train: TrainConfig) -> float:
    """Of a model that only answers."""
    return BYTES[train.precision] * _resident(parameters, train)


def _resident(parameters: float, train: TrainConfig) -> float:
    """Parameters of a model that lie on a rank's GPU at once."""
    if train.effective_zero_stage < 3:
        return parameters
    kept = 0.0 if train.offload == "all" else parameters / train.ranks
    return min(parameters, kept + LIVE_PARAMETERS)


def backward(shape: Shape, config: RunConfig, tokens: int, logits: float = 0.0) -> Parts:
    """The peak of the backward pass of `tokens` in one micro-batch, with bytes of logits."""
    block, last = _kept_per_token(shape, config)
    kept = tokens * (shape.layers * block + last)
    if config.train.gradient_checkpointing:
        # Only inputs of blocks are kept. One is computed again at a time, with the logits gone.
        inputs = shape.layers * shape.hidden * BYTES[config.train.precision]
        kept = tokens * (inputs + last) + max(0.0, tokens * block - logits)
    return {"activations": kept, "logits": logits}


def _kept_per_token(shape: Shape, config: RunConfig) -> tuple[float, float]:
    """Bytes that one block and the last norm keep of one token.

    A norm keeps its input, and RMSNorm, in fp32, also what its weight scales if that is trained; a
    linear layer keeps its input, attention its queries, keys, values and output. SiLU gated: gate,
    up, SiLU(gate) and their product; GELU in its tanh form: input, tanh, half the input, 1 + tanh
    and the product of the last two.
    """
    size = BYTES[config.train.precision]
    norm = size * shape.hidden + size * shape.hidden  # its input and output
    if shape.gated:
        scaled = 0 if config.model.adapter else size * shape.hidden
        norm = 4 * shape.hidden + scaled + size * shape.hidden
    queries, keys = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    inner = (4 if shape.gated else 5) * shape.intermediate
    return 2 * norm + size * (2 * queries + 2 * keys + inner), norm


def logits(shape: Shape, copies: int, positions: int) -> float:
    """fp32 copies of the logits of `positions`."""
    return 4.0 * shape.vocabulary * copies * positions


def rollout(shape: Shape, config: RunConfig) -> Parts:
    """One rollout worker while it decodes a unit of answers."""
    size = BYTES[config.train.precision]
    rows, length = config.rollout.rows_per_unit, config.data.max_prompt_length
    length += config.rollout.max_new_tokens
    adapters = adapter_parameters(shape, config)
    per_layer = 2 * size * shape.key_value_heads * shape.head_size * rows * length
    # A layer's cache grows by being copied.
    return {
        "weights": size * (shape.parameters + adapters),
        "keys and values": (shape.layers + 1) * per_layer,
        "logits": logits(shape, SAMPLED_LOGITS, rows),
    }
