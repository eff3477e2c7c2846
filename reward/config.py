"""What the user says about feedback and the reward model. No torch here."""

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from align.data.config import Section
from align.data.criteria import CRITERIA, is_criterion
from align.reward.mix_config import Normalize


class ComparisonsConfig(Section):
    """Elo battles."""

    pairs: Literal["raw", "fitted"] = "raw"
    """The votes on two answers as they are, or all answers to a prompt by fitted strengths."""
    z: float = Field(default=1.96, ge=0)
    """With `fitted`, strengths make a pair if they are so many standard errors apart."""


class QuestionsConfig(Section):
    """Questionnaires."""

    mode: Literal["weighted", "overall", "learned"] = "weighted"
    """A score by the weights of the questions, the overall judgement alone, or a score by weights
    that are learned from overall judgements and battles."""
    least_gap: float = Field(default=0.1, ge=0)
    """Equal scores, and closer ones than this, are a tie where one record asks about both answers;
    answers that were judged apart make no pair then, as nobody called them equal."""
    criterion_weights: dict[str, float] = Field(default_factory=dict)
    """How much each criterion counts in a score: 1 where it is not named."""

    @model_validator(mode="after")
    def _weighs_known_criteria(self) -> "QuestionsConfig":
        for name, weight in self.criterion_weights.items():
            if not is_criterion(name):
                raise ValueError(
                    f"feedback.questions.criterion_weights: {name} is no criterion: use one of "
                    f"{', '.join(CRITERIA)} or rule:<id>"
                )
            if weight < 0:
                raise ValueError(
                    f"feedback.questions.criterion_weights: {name} must be at least 0, not {weight}"
                )
        return self


class RulesConfig(Section):
    """Rule judgements."""

    pairs: Literal["per_rule", "lexicographic"] = "per_rule"
    """Each rule a criterion of its own, or hard rules first: what they say is `overall`, and
    pairs of other criteria that say otherwise are left out and logged."""
    hard: tuple[str, ...] = ()
    """Ids of the hard rules, the most important first."""

    @model_validator(mode="after")
    def _has_hard_rules_where_they_decide(self) -> "RulesConfig":
        if (self.pairs == "lexicographic") != bool(self.hard):
            raise ValueError(
                f"feedback.rules.hard ({', '.join(self.hard) or 'none'}) and feedback.rules.pairs "
                f"({self.pairs}): hard rules need lexicographic, and lexicographic needs hard rules"
            )
        return self


class JudgesConfig(Section):
    """Judge models that grade answers by a rubric."""

    least_gap: float = Field(default=0.1, ge=0)
    """Equal expected rewards, and closer ones than this, make no pair: a judge differs by as much
    with itself when the options change places."""


class EligibilityConfig(Section):
    """Who may annotate, by what people declare of themselves. Models declare nothing."""

    profiles: Path | None = None
    """Rows of `annotator_id`, `education`, `region` and `languages` (a list): what somebody did not
    declare is left out or null. This is personal, and gets into no table."""
    education: tuple[str, ...] = ()
    """One of these; if empty, any."""
    region: tuple[str, ...] = ()
    """One of these; if empty, any."""
    languages: tuple[str, ...] = ()
    """All of these."""

    @model_validator(mode="after")
    def _asks_what_it_knows(self) -> "EligibilityConfig":
        asked = self.education or self.region or self.languages
        if (self.profiles is None) == bool(asked):
            raise ValueError(
                "feedback.eligibility: `profiles` and what they must say (`education`, `region` or "
                "`languages`) are given together"
            )
        return self


class GuidelineConfig(Section):
    """One version of the guidelines for annotators, in force until the next one is."""

    version: str = Field(min_length=1)
    """As records have it in `guideline_version`."""
    in_force_from: date
    """The day from whose beginning (UTC) it counts, such as 2026-03-01."""


class FeedbackConfig(Section):
    """How raw feedback becomes preference pairs."""

    ties: Literal["soft", "drop"] = "soft"
    """A tie becomes a pair with target probability 1/2, or none."""
    margins: Literal["none", "scores", "all"] = "scores"
    """What asks for a larger reward gap: nothing, gaps of scores and severities, or gaps of ranks
    and the strength of battles too."""
    near_duplicates: bool = False
    """Hold out together prompts whose texts are nearly the same, not only those that are equal but
    for case, spaces and Unicode form."""
    noise: Literal["none", "dawid_skene"] = "none"
    """Where `noise_prob` of a pair comes from, by which training smooths its target: nowhere, or
    Dawid-Skene over the votes of all records, which finds how reliable each annotator is."""
    annotators: Path | None = None
    """A table of annotators (see `align feedback agreement`): only what they judged counts, and
    where a row has dates, only what was judged between them."""
    min_gold_agreement: float = Field(default=0, ge=0, le=1)
    """Of `annotators`, only those count whose `wilson_lb` is at least this: the lower end of the
    95 % interval of their agreement on gold items. Without gold items there is none."""
    eligibility: EligibilityConfig = EligibilityConfig()
    guidelines: tuple[GuidelineConfig, ...] = ()
    """All versions so far. With them, `align feedback agreement` finds what nobody has judged by
    the version now in force."""
    comparisons: ComparisonsConfig = ComparisonsConfig()
    questions: QuestionsConfig = QuestionsConfig()
    rules: RulesConfig = RulesConfig()
    judges: JudgesConfig = JudgesConfig()

    @model_validator(mode="after")
    def _screens_annotators_it_knows(self) -> "FeedbackConfig":
        if self.min_gold_agreement and self.annotators is None:
            raise ValueError(
                f"feedback.min_gold_agreement ({self.min_gold_agreement}) needs "
                "feedback.annotators, the table that knows who agrees with gold"
            )
        return self


class RewardConfig(Section):
    """How the reward model learns from pairs."""

    epochs: int = Field(default=1, gt=0)
    """Passes over the pairs."""
    batch_size: int = Field(default=32, gt=0)
    """Preference groups (one prompt, its ranked answers) per optimiser step."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    centering_coef: float = Field(default=0.01, ge=0)
    """Weight of (r_chosen + r_rejected)^2, which keeps rewards near 0."""
    rankings: Literal["pairs", "plackett_luce", "best_of"] = "pairs"
    """How rankings and best-of judgements are learnt: all pairs of better and worse, the best of
    those that are left again and again, or the best of all. The last two read no margins."""
    normalize: Normalize = "none"
    """After training, shift rewards so that SFT demonstrations (`data.instructions`) have mean 0,
    or standardize them to standard deviation 1 as well. The model's config keeps both numbers."""
    auxiliary: float = Field(default=0, ge=0, lt=1)
    """Share of the loss that teaches a second head the scores of single answers, as questionnaires
    and rule judgements gave them (GopherCite: 0.5). The head is not published."""
    rule_classifier: bool = False
    """Also train a classifier of broken rules on the rule judgements, `rm/rules/final`, for the
    part `rules` of `reward.mix`."""
    packing: bool = True
    """Put several answers into a row without padding; they never attend to each other."""
    model: Path | None = None
    """Start from this model instead of the run's `sft/final`."""
