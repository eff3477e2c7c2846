"""The reward that PPO maximises: the reward model's word, or the parts of `reward.mix`.

Shapes: B answers.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from align.data.errors import UserError
from align.data.messages import Message, shown
from align.pipeline.config import RunConfig
from align.pipeline.reward_parts import SCORERS, Setting
from align.pipeline.reward_units import demonstrations, units_of
from align.pipeline.rule_classifier import classifier_folder
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts
from align.policy.places import identity_of
from align.reward.mix_config import RewardPart
from align.reward.signals.exchange import Exchange
from align.reward.signals.mix import Rewards, mixed


class RewardMix:
    """Scores answers by every part; on all ranks."""

    def __init__(self, setting: Setting) -> None:
        self._tokenizer = setting.tokenizer
        self._gated = setting.config.reward.gated
        self._parts = setting.config.reward.mix or (RewardPart(kind="model"),)
        self._scorers = {part.label: SCORERS[part.kind](part, setting) for part in self._parts}
        self._units = {part.label: (0.0, 1.0) for part in self._parts} | self._measured(setting)

    def __call__(self, texts: Texts, prompts: Sequence[list[Message]]) -> Rewards:
        """Raises: UserError where a part gives no finite number, naming the answer."""
        exchanges = self._exchanges(texts, prompts)
        parts = {}
        for part in self._parts:
            shift, scale = self._units[part.label]
            parts[part.label] = (self._scorers[part.label](texts, exchanges) - shift) / scale
            _check_finite(part.label, parts[part.label], exchanges)
        weights = {part.label: part.weight for part in self._parts}
        least = {part.label: part.least for part in self._parts if part.least is not None}
        return mixed(parts, weights, least, self._gated)

    def _measured(self, setting: Setting) -> dict[str, tuple[float, float]]:
        """Shift and scale of the parts that have any, measured on SFT demonstrations."""
        wanted = [part for part in self._parts if part.normalize != "none"]
        if not wanted:
            return {}
        prompts, texts = demonstrations(setting.config, setting.directory, setting.tokenizer)
        exchanges = self._exchanges(texts, prompts)
        return {
            part.label: units_of(self._scorers[part.label](texts, exchanges), part.normalize)
            for part in wanted
        }

    def _exchanges(self, texts: Texts, prompts: Sequence[list[Message]]) -> list[Exchange]:
        answers = self._tokenizer.batch_decode(texts.responses, skip_special_tokens=True)
        return [
            Exchange(prompt, answer.strip())
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


def mix_identities(config: RunConfig, directory: RunDirectory) -> list[str]:
    """What the mix reads from disk, by content: a run that goes on must find the same."""
    paths = [path for part in config.reward.mix for path in (*part.models, part.file) if path]
    if any(part.kind == "rules" and not part.models for part in config.reward.mix):
        paths.append(classifier_folder(directory))
    return [identity_of(path) for path in paths]


def _check_finite(name: str, scores_B: Tensor, exchanges: Sequence[Exchange]) -> None:
    for place, score in enumerate(scores_B.tolist()):
        if not math.isfinite(score):
            raise UserError(
                f"reward {name}: {score} for answer {place} of {len(exchanges)}, "
                f"{shown(exchanges[place].answer)} to {shown(exchanges[place].prompt[-1])}: a "
                "reward must be finite; mend this part, or leave it out of reward.mix"
            )
