"""The average of the weights: right, kept by a checkpoint, and what is published in the end."""

from pathlib import Path

import pytest
import torch
from torch import nn

from align.pipeline.checkpoint import Checkpoints
from align.pipeline.config import RunConfig
from align.pipeline.ema import MovingAverage
from align.pipeline.engine import Engine
from align.pipeline.run_directory import RunDirectory

pytestmark = [
    pytest.mark.usefixtures("one_rank"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]

DECAY = 0.8


def config_with(**train: object) -> RunConfig:
    return RunConfig.model_validate({"name": "x", "train": train})


class Training:
    """A linear model and the average of its weights; a step depends on its number alone."""

    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(0)
        self.engine = Engine(nn.Linear(4, 3), 0.1, 20, config.train)
        self.average = MovingAverage(self.engine, DECAY)

    def step(self, number: int) -> None:
        noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        self.engine.backward(self.engine(noise).square().mean())
        self.engine.step(number)
        self.average.include(self.engine)

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat(
            [p.flatten().clone() for _, p in self.engine.parameters(trainable_only=True)]
        )

    @property
    def averaged(self) -> torch.Tensor:
        return torch.cat([tensor.flatten() for tensor in self.average.share.values()])


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_average_weighs_every_step_by_its_age(zero_stage: int) -> None:
    """The sum that defines it: (1 - d) d^age each, the first weights with what is left."""
    training = Training(config_with(zero_stage=zero_stage))
    history = [training.weights]
    for step in range(5):
        training.step(step)
        history.append(training.weights)
    expected = DECAY**5 * history[0]
    for step in range(1, 6):
        expected += (1 - DECAY) * DECAY ** (5 - step) * history[step]
    assert torch.allclose(training.averaged, expected, atol=1e-6)
    assert not torch.allclose(expected, history[-1], atol=1e-2)
    training.average.write_into(training.engine)
    assert torch.allclose(training.weights, expected, atol=1e-6)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_stopped_average_goes_on_bit_by_bit(tmp_path: Path, zero_stage: int) -> None:
    """OpenRLHF's began again from the first weights."""
    config = config_with(zero_stage=zero_stage, save_every=3)
    through, stopped, again = (Training(config) for _ in range(3))
    for step in range(6):
        through.step(step)
    checkpoints = Checkpoints(RunDirectory(tmp_path), "ppo", config, "data", 20)
    for step in range(3):
        stopped.step(step)
        engines, share = {"policy": stopped.engine.deepspeed}, stopped.average.share
        checkpoints.after(step + 1, engines, tensors=share)
    checkpoints.finish()
    resumed = Checkpoints(RunDirectory(tmp_path), "ppo", config, "data", 20)
    resumed.restore({"policy": again.engine.deepspeed}, again.average.share)
    assert torch.equal(again.averaged, stopped.averaged)
    for step in range(3, 6):
        again.step(step)
    assert torch.equal(again.averaged, through.averaged)
    assert torch.equal(again.weights, through.weights)


def test_weights_that_do_not_train_have_no_average() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    average = MovingAverage(Engine(model, 0.1, 20, config_with().train), DECAY)
    assert set(average.share) == {"1.weight", "1.bias"}
