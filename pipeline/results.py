"""What a run leaves behind besides models: evaluations, sample answers, the summary.

One model per JSON file of the run directory. A file that is broken is a DataError naming the
file and the field; keys that this version does not know are ignored.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from align.data.errors import DataError


class Result(BaseModel):
    """A frozen record read from a run directory."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SliceAccuracy(Result):
    """The reward model on some of the held-out pairs."""

    n: int
    """Held-out pairs that are no ties."""
    accuracy: float
    low: float
    """Lower end of the 95 % Wilson interval."""
    high: float
    log_loss: float | None = None
    """Nats per pair."""
    ece: float | None = None


class CalibrationBin(Result):
    """Pairs to which the reward model gave about the same confidence."""

    confidence: float
    """Mean predicted probability of the preferred answer."""
    accuracy: float
    n: int


class CoveragePoint(Result):
    """The pairs of which the reward model was surest."""

    coverage: float
    """How large a share of all pairs they are."""
    risk: float
    """On which share of them it was wrong."""


class LengthBias(Result):
    """Whether the reward model goes by length."""

    n: int
    """Pairs whose answers differ in length."""
    longer_chosen: float
    """Share in which people preferred the longer answer."""
    longer_scored: float
    """Share in which the model scores it higher."""


class BestOfN(Result):
    """The best of n answers by the reward model, on average."""

    n: int
    kl: float
    """Nats per answer from the policy that wrote them."""
    proxy: float
    gold: float
    """By a judge that knows better."""


class RewardEvaluation(Result):
    """`rm/evaluation.json`: the reward model on held-out pairs."""

    accuracy: float
    log_loss: float | None = None
    """Nats per pair."""
    ece: float | None = None
    """Expected calibration error, a probability."""
    by_kind: dict[str, SliceAccuracy] = {}
    by_criterion: dict[str, SliceAccuracy] = {}
    by_annotator: dict[str, SliceAccuracy] = {}
    by_agreement: dict[str, SliceAccuracy] = {}
    by_length: dict[str, SliceAccuracy] = {}
    calibration: tuple[CalibrationBin, ...] = ()
    risk_coverage: tuple[CoveragePoint, ...] = ()
    length_bias: LengthBias | None = None
    best_of_n: tuple[BestOfN, ...] = ()
    against_taste: SliceAccuracy | None = None
    """Against the taste that simulated annotators tried to follow; None with human feedback."""


class Comparison(Result):
    """One held-out prompt, answered by three models."""

    prompt: str
    base: str | None = None
    sft: str
    ppo: str
    sft_reward: float | None = None
    ppo_reward: float | None = None


class PolicyEvaluation(Result):
    """`ppo/evaluation.json`: the PPO model against the SFT model on held-out prompts."""

    win_rate: float | None = None
    """Share of prompts where PPO is preferred; a tie counts half."""
    kl: float | None = None
    """Nats per answer from the SFT model."""
    distinct2_ratio: float | None = None
    reward_before: float | None = None
    reward_after: float | None = None
    samples: tuple[Comparison, ...] = ()


class SampleAnswer(Result):
    """A line of `STAGE/samples.jsonl`."""

    step: int
    prompt: str
    answer: str
    score: float | None = None


class Summary(Result):
    """`summary.json`: the run in a few numbers."""

    rm_accuracy: float | None = None
    win_rate: float | None = None
    kl: float | None = None
    distinct2_ratio: float | None = None
    seconds: dict[str, float] = {}
    """Wall-clock seconds by stage."""


Record = TypeVar("Record", bound=Result)


def read_result(path: Path, model: type[Record]) -> Record:
    """Read one JSON file of a run directory. Raises DataError when it is broken."""
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path}:1: {_first_problem(error)}") from error


def read_samples(path: Path) -> list[SampleAnswer]:
    """Read `samples.jsonl`. Raises DataError at the first broken line."""
    samples = []
    for number, row in read_json_lines(path):
        try:
            samples.append(SampleAnswer.model_validate(row))
        except ValidationError as error:
            raise DataError(f"{path}:{number}: {_first_problem(error)}") from error
    return samples


def read_json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a file that a run appends to.

    A last line without its newline was cut off by a crash and is left out. Any other line that
    is not a JSON object raises DataError.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: not a JSON object but {type(row).__name__}")
        rows.append((number, row))
    return rows


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {problem['msg']}" if field else problem["msg"]
