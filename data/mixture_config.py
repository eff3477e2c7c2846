"""What the user says about mixing sources: how often each is drawn. No torch here."""

from typing import Literal

from pydantic import Field, model_validator

from align.data.section import Section


class SourceShare(Section):
    """How one source is drawn."""

    name: str
    """The source's `name`, or that of its file."""
    quality: float = Field(default=1.0, ge=0)
    """Multiplies the source's rate: 2 doubles its odds against the others, 0 leaves it out."""
    max_epochs: int | None = Field(default=None, gt=0)
    """A pass draws the source at most so many times its rows; the rest goes to other sources."""
    max_rows: int | None = Field(default=None, gt=0)
    """Use so many rows of the source, chosen by hash; the others are never drawn."""
    token_share: float | None = Field(default=None, gt=0, lt=1)
    """This share of all tokens comes from the source, whatever its rows; for pre-training text."""

    @model_validator(mode="after")
    def _has_one_kind_of_share(self) -> "SourceShare":
        if self.token_share is not None and self.quality != 1:
            raise ValueError(f"{self.name}: give one of token_share and quality")
        return self


class Mixture(Section):
    """How often each source is drawn. Rates are in proportion to the sources' rows (Raffel et al.
    2020, section 3.5.2), unless the keys below say otherwise."""

    rows: int | None = Field(default=None, gt=0)
    """Rows drawn in one pass; by default as many as all sources have, each counted up to
    `rate_cap`."""
    tokens: int | None = Field(default=None, gt=0)
    """Instead of `rows`: about so many tokens drawn in one pass, prompts included. Mixtures of
    other ratios then learn from as much data."""
    rate_cap: int | None = Field(default=None, gt=0)
    """A source of more rows is drawn as if it had so many (T5's K); all its rows may still come."""
    temperature: float = Field(default=1.0, ge=1)
    """Rates are raised to 1/temperature: 1 keeps them, a high one makes all sources equal."""
    max_rows_per_task: int | None = Field(default=None, gt=0)
    """Use so many rows of a task, chosen by hash; the others are never drawn."""
    balance_classes: bool = False
    """Where `max_rows_per_task` cuts, keep as many rows of each class as there are."""
    dedup: Literal["none", "exact", "near"] = "none"
    """Leave out rows whose prompt and answer came before: `exact` but for case, spaces and Unicode
    form, `near` also where four fifths of their 5-grams of characters are the same. `near` also
    holds out together prompts that are nearly the same, and holds all texts in memory."""
    eval_rows: int = Field(default=1000, gt=0)
    """Held-out rows that are evaluated, at most; chosen by hash."""
    sources: tuple[SourceShare, ...] = ()
    """What holds for single sources."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Mixture":
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("`sources` names a source twice")
        if self.rows is not None and self.tokens is not None:
            raise ValueError("give one of `rows` and `tokens`")
        if self.balance_classes and self.max_rows_per_task is None:
            raise ValueError("balance_classes needs max_rows_per_task, where it cuts")
        if sum(source.token_share or 0 for source in self.sources) >= 1:
            raise ValueError("the token shares leave nothing to the other sources")
        return self


class MixtureConfig(Section):
    """How SFT's and PPO's sources are mixed; without it all rows of all sources are used."""

    instructions: Mixture | None = None
    """Over `data.instructions`."""
    prompts: Mixture | None = None
    """Over `data.prompts`; tokens are not counted there."""

    @model_validator(mode="after")
    def _prompts_have_rows_only(self) -> "MixtureConfig":
        if self.prompts and any(source.token_share for source in self.prompts.sources):
            raise ValueError("mixture.prompts: a prompt is a row: token_share is for instructions")
        if self.prompts and self.prompts.tokens is not None:
            raise ValueError("mixture.prompts: a prompt is a row: give `rows`, not `tokens`")
        if self.prompts and self.prompts.dedup == "near":
            raise ValueError("mixture.prompts: dedup: near is for instructions; use exact")
        return self
