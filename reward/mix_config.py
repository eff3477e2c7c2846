"""What the user says about the reward that PPO maximises: one part, or several. No torch here."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from align.data.config import Section
from align.data.urls import plain_http

Normalize = Literal["none", "shift", "standardize"]
PartKind = Literal["model", "function", "server", "judge", "rules", "length"]

NEEDED: dict[str, tuple[str, ...]] = {
    "model": (),
    "function": ("function",),
    "server": ("url",),
    "judge": ("rubric", "judge"),
    "rules": ("rules",),
    "length": ("longest",),
}
TAKEN: dict[str, tuple[str, ...]] = {
    "model": ("models", "uncertainty"),
    "function": ("file",),
    "server": ("key_variable", "timeout", "deadline", "batch_size"),
    "judge": ("url", "key_variable", "timeout", "deadline", "prompt_class"),
    "rules": ("models",),
    "length": (),
}
SHARED = ("kind", "name", "weight", "normalize", "least")


class RewardPart(Section):
    """One part of the reward of an answer."""

    kind: PartKind
    """A reward model, a Python function, a server, a judge model, a classifier of broken rules, or
    a penalty for each token above a length."""
    name: str = Field(default="", pattern=r"^[a-z0-9_]*$")
    """PPO reports its mean as `reward/NAME`; the kind if not given."""
    weight: float = 1.0
    """What it is multiplied by in the sum; 0 only reports it, or only gates."""
    normalize: Normalize = "none"
    """Shift it so that SFT demonstrations (`data.instructions`) have mean 0, or standardize it."""
    least: float | None = None
    """A gate: an answer with less of this part gets `reward.gated` and nothing of the sum."""
    models: tuple[Path, ...] = ()
    """Reward models to use instead of the run's own, as an ensemble if several; of `rules`, one
    classifier to use instead of the run's own."""
    uncertainty: float = Field(default=0, ge=0)
    """Of an ensemble: what the variance of its scores takes off their mean."""
    function: str | None = None
    """`module:name` of what takes the messages of a prompt and the text of an answer and returns a
    number, or its bare name in `file`."""
    file: Path | None = None
    """The Python file that holds `function`."""
    url: str | None = None
    """Of a `server`, which gets POSTs at URL/score; of a `judge`, of an OpenAI-compatible one."""
    key_variable: str | None = None
    """Environment variable that holds the server's API key; none is sent without it."""
    timeout: float = Field(default=60, gt=0)
    """Seconds of silence after which one try is given up."""
    deadline: float = Field(default=300, gt=0)
    """Seconds for one request with all its tries."""
    batch_size: int = Field(default=32, gt=0)
    """Answers in one request."""
    rubric: str | None = None
    """The name of a rubric that ships with align, or a YAML file, absolute or from the working
    directory."""
    judge: str | None = None
    """The judge's folder, or its name at `url`."""
    prompt_class: Literal["harmful", "benign", "unknown"] = "unknown"
    """What the rubric is to take the prompts for."""
    rules: tuple[str, ...] = ()
    """Ids of rules that the classifier learnt: the reward is the mean of log(1 - p broken)."""
    longest: int | None = Field(default=None, gt=0)
    """Tokens of an answer that cost nothing; each further one costs 1."""

    @property
    def label(self) -> str:
        """The name, or else the kind."""
        return self.name or self.kind

    @field_validator("url")
    @classmethod
    def _is_plain_http(cls, url: str | None) -> str | None:
        return None if url is None else plain_http(url)

    @model_validator(mode="after")
    def _takes_what_its_kind_needs(self) -> "RewardPart":
        given = {
            name
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.default and name not in SHARED
        }
        needed = NEEDED[self.kind]
        if missing := [name for name in needed if name not in given]:
            raise ValueError(f"kind: {self.kind} needs `{missing[0]}`")
        if strange := sorted(given - set(needed) - set(TAKEN[self.kind])):
            raise ValueError(f"kind: {self.kind} takes no `{strange[0]}`")
        if self.kind == "rules" and len(self.models) > 1:
            raise ValueError(f"kind: rules takes one classifier, not {len(self.models)}")
        if self.uncertainty and len(self.models) < 2:
            raise ValueError(
                f"uncertainty ({self.uncertainty}) needs an ensemble, and `models` names "
                f"{len(self.models)}"
            )
        return self


class MixConfig(Section):
    """What PPO maximises."""

    mix: tuple[RewardPart, ...] = ()
    """The parts of the reward, summed by weight; the reward model alone if empty."""
    gated: float = -1.0
    """Reward of an answer that a gate shuts out."""

    @model_validator(mode="after")
    def _names_differ(self) -> "MixConfig":
        names = [part.label for part in self.mix]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"reward.mix: two parts are called {name}: give each a `name`")
        return self
