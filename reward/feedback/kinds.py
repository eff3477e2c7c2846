"""Which converter turns records of a kind into opinions, under which options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from align.data.messages import sha256_of
from align.reward.config import FeedbackConfig
from align.reward.feedback import best_of, comparisons, questions, ranking, rbrm, rules
from align.reward.feedback.opinions import Opinions
from align.reward.feedback.pool import Judged

VERSION = 1  # of the conversion; raise it when the same records give other pairs


@dataclass(frozen=True)
class Options:
    """The user's options, and what was fitted for them."""

    config: FeedbackConfig
    fit: comparisons.Fit | None = None
    question_weights: Mapping[str, float] | None = None


def _comparisons(table: pa.Table, options: Options) -> Opinions:
    config = options.config
    if config.comparisons.pairs == "fitted":
        assert options.fit is not None  # `convert` refuses
        return comparisons.fitted_opinions(table, options.fit, config.comparisons.z)
    return comparisons.opinions(table, margins=config.margins == "all")


def _questions(table: pa.Table, options: Options) -> Opinions:
    config = options.config.questions
    if config.mode == "overall":
        scores = questions.overall_scores(table)
    else:
        weights = options.question_weights if config.mode == "learned" else None
        scores = questions.weighted_scores(table, config.criterion_weights, weights)
    return questions.opinions(table, scores, config.least_gap)


OPINIONS: dict[str, Callable[[pa.Table, Options], Opinions]] = {
    "best_of": lambda table, _: best_of.opinions(table),
    "ranking": lambda table, options: ranking.opinions(table, options.config.margins == "all"),
    "comparison": _comparisons,
    "question": _questions,
    "rule": lambda table, _: rules.opinions(table),
    "rbrm": lambda table, options: rbrm.opinions(table, options.config.judges.least_gap),
}


def judged(tables: Mapping[str, pa.Table], options: Options) -> list[Judged]:
    """What the records of every kind say; those on hard rules are apart."""
    said = []
    for kind, table in sorted(tables.items()):
        if kind == "rule" and (hard := options.config.rules.hard):
            is_hard = pc.is_in(table["rule_id"], pa.array(hard))
            mine = table.filter(is_hard)
            said.append(Judged(kind, mine, rules.verdicts(mine, hard), verdict=True))
            table = table.filter(pc.invert(is_hard))
        said.append(Judged(kind, table, OPINIONS[kind](table, options)))
    return said


def converter(kind: str, options: Options, held_out: float) -> tuple[str, str]:
    """Name and version of a kind's converter, and a hash of all that its pairs depend on."""
    config = options.config
    own: dict[str, Any] = {
        "comparison": config.comparisons.model_dump(),
        "question": config.questions.model_dump() | {"weights": options.question_weights},
        "rule": config.rules.model_dump(),
        "rbrm": config.judges.model_dump(),
    }.get(kind, {})
    shared = [VERSION, kind, config.ties, config.margins, config.near_duplicates, held_out]
    shared.append(config.noise)
    return f"{kind}/{VERSION}", sha256_of([*shared, own])
