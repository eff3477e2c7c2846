"""An average of the policy's weights over the steps, to publish instead of the last ones."""

import torch
import torch.distributed as dist
from torch import Tensor

from align.pipeline import ranks
from align.pipeline.engine import Engine, gathered


class MovingAverage:
    """average <- decay average + (1 - decay) weights, once a step, from the first weights on.

    In fp32 on the CPU; every rank keeps its share. Source: Polyak and Juditsky 1992; Ouyang et al.
    2022 (arXiv:2203.02155), appendix C.4. A checkpoint keeps it: OpenRLHF's began again.
    """

    def __init__(self, policy: Engine, decay: float) -> None:
        self._decay = decay
        self.share: dict[str, Tensor] = {
            name: weight.to("cpu", torch.float32, copy=True)
            for place, (name, weight) in enumerate(policy.parameters(trainable_only=True))
            if _owner(place) == ranks.rank()
        }

    def include(self, policy: Engine) -> None:
        """One step more; every rank calls this."""
        for name, weight in policy.parameters(trainable_only=True):
            if name in self.share:
                self.share[name].lerp_(weight.to("cpu", torch.float32), 1 - self._decay)

    def write_into(self, policy: Engine) -> None:
        """Make it the policy's weights, for good: the optimiser does not know of it."""
        trained = [(n, p) for n, p in policy.module.named_parameters() if p.requires_grad]
        for place, (name, parameter) in enumerate(trained):
            with gathered(parameter, modified=True), torch.no_grad():
                average = self.share.get(name, torch.empty(parameter.shape))
                dist.broadcast(average, src=_owner(place))
                parameter.copy_(average)


def _owner(place: int) -> int:
    """The rank that keeps a parameter's average."""
    return place % ranks.world_size()
