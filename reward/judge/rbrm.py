"""Judging single answers by a rubric: raw `rbrm` records with the expected reward.

Source: rule-based reward models (OpenAI 2023, arXiv:2303.08774); the formulas are in `letters.py`.

Shapes: N answers, P letter orders, K options.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from align.data.errors import UserError
from align.data.messages import Message, assistant, user
from align.data.schemas import Record
from align.reward.judge.asking import Judge, Replies
from align.reward.judge.letters import (
    Floats,
    Places,
    expected_reward,
    letter_mass,
    letter_orders,
    letter_picks,
    option_logprobs,
)
from align.reward.judge.records import Origin, judged
from align.reward.judge.rubric import PromptClass, Rubric
from align.reward.judge.wording import conversation, question

NOTHING = "N/A"  # a content-free input of Zhao et al. 2021


@dataclass(frozen=True)
class Exchange:
    """A prompt and one answer to it."""

    prompt: list[Message]
    completion: list[Message]
    prompt_class: PromptClass = "unknown"
    gold: bool = False
    """A hidden test of the judge, with a known verdict elsewhere."""


@dataclass(frozen=True)
class Manner:
    """How often and how a judge is asked about one answer."""

    most_orders: int = 24
    """Letter orders, at most, but at least one circle of as many as there are options."""
    seed: int = 0
    """Chooses the orders where there are more."""
    calibrated: bool = False
    """Contextual calibration: one more question about nothing for every letter order."""


class Judgements(NamedTuple):
    """What a judge found."""

    records: list[Record]
    problems: dict[int, str]
    """Why an exchange has no record, by its place."""
    letter_mass: float
    """Mean probability of replying with a letter at all; near 0, the judge did not understand."""
    letter_picks: list[int]
    """How often each letter was the likeliest; far from equal, the judge reads no options."""
    floored: int
    """Letters whose log-probability the judge did not tell."""


def judge_answers(
    judge: Judge, rubric: Rubric, exchanges: Sequence[Exchange], origin: Origin, manner: Manner
) -> Judgements:
    """Ask about every exchange in every letter order.

    Raises: UserError if the judge gives out, or cannot be asked about nothing to calibrate it.
    """
    orders_PK = letter_orders(len(rubric.options), manner.most_orders, manner.seed)
    nothing = [Exchange(user(NOTHING), assistant(NOTHING))] if manner.calibrated else []
    asked = [*exchanges, *nothing]
    questions = [rubric_question(rubric, one, order) for one in asked for order in orders_PK]
    replies = judge.ask(questions, len(rubric.options))
    letters_NPK = replies.logprobs_NK.reshape(len(asked), *orders_PK.shape)
    problems = _problems(replies, len(orders_PK))
    content_free_PK = letters_NPK[-1] if manner.calibrated else None
    if manner.calibrated and len(exchanges) in problems:
        raise UserError(f"{judge.id}: cannot be calibrated: {problems[len(exchanges)]}")
    good = [place for place in range(len(exchanges)) if place not in problems]
    letters_NPK = letters_NPK[good]
    logprobs_NK = option_logprobs(letters_NPK, orders_PK, content_free_PK)
    records = [
        _header(exchanges[place], judge.id, rubric, origin, manner)
        | _verdict(exchanges[place].prompt_class, rubric, logprobs_K)
        | {"judge_id": judge.id, "n_permutations": len(orders_PK)}
        for place, logprobs_K in zip(good, logprobs_NK, strict=True)
    ]
    mass = letter_mass(letters_NPK) if good else 0.0
    return Judgements(records, problems, mass, letter_picks(letters_NPK), replies.floored)


def guideline_of(rubric: Rubric, manner: Manner) -> str:
    """The `guideline_version` of a rubric's records."""
    return f"{rubric.id}/{rubric.version}" + (", calibrated" if manner.calibrated else "")


def rubric_question(rubric: Rubric, exchange: Exchange, order: Places) -> list[Message]:
    """What the judge reads; `order` says which option stands beside each letter."""
    texts = [("answer", exchange.completion[-1]["content"])]
    if rubric.shows_prompt:
        texts.insert(0, ("conversation", conversation(exchange.prompt)))
    return question(rubric.instruction, texts, [rubric.by_id[option].text for option in order])


def _problems(replies: Replies, orders: int) -> dict[int, str]:
    """By exchange; the first problem of several."""
    found: dict[int, str] = {}
    for place, problem in sorted(replies.problems.items()):
        found.setdefault(place // orders, problem)
    return found


def _header(
    exchange: Exchange, judge_id: str, rubric: Rubric, origin: Origin, manner: Manner
) -> Record:
    sheet = rubric.model_dump() | {"options": [option.model_dump() for option in rubric.by_id]}
    return judged(
        "rbrm",
        exchange.prompt,
        [exchange.completion],
        origin,
        judge_id=judge_id,
        criterion=rubric.criterion,
        guideline_version=guideline_of(rubric, manner),
        gold=exchange.gold,
        asked=[sheet, exchange.prompt_class, asdict(manner)],
    )


def _verdict(prompt_class: PromptClass, rubric: Rubric, logprobs_K: Floats) -> Record:
    options = rubric.by_id
    rewards_K = np.array([option.rewards[prompt_class] for option in options])
    return {
        "rubric_id": rubric.id,
        "rubric_version": rubric.version,
        "prompt_class": prompt_class,
        "option_ids": [option.id for option in options],
        "option_logprobs": logprobs_K.tolist(),
        "chosen_option": options[int(logprobs_K.argmax())].id,
        "reward": expected_reward(logprobs_K, rewards_K),
    }
