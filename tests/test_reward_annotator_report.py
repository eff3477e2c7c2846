"""Annotators and players measured from raw records: planted ones are found again."""

import math
import random
from typing import Any

import pytest

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import FEEDBACK, Record, completed
from align.reward.annotator_report import report_on
from align.reward.config import FeedbackConfig
from align.reward.player_ratings import LEAST_ANNOTATORS, ratings_of
from align.reward.ratings.elo import ELO_PER_NAT

CONFIG = FeedbackConfig()


def vote(name: str, outcome: str, who: str, prompt: str = "Hi", **fields: Any) -> Record:
    made = header(
        "comparison", name, user(prompt), [assistant("a"), assistant("b")], source="test",
        license=None, annotator_id=who, guideline_version="1", completion_ids=["a", "b"],
    )  # fmt: skip
    return completed(made | {"outcome": outcome} | fields, FEEDBACK["comparison"])


def crowd(accuracies: dict[str, float], items: int, **fields: Any) -> list[Record]:
    chance = random.Random(7)
    return [
        vote(f"{who}{i}", "ab"[(i + (chance.random() > right)) % 2], who, f"P{i}", **fields)
        for i in range(items)
        for who, right in accuracies.items()
    ]


def test_planted_accuracies_are_recovered_and_a_liar_is_last() -> None:
    planted = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.55, "liar": 0.2}
    report = report_on(crowd(planted, 600), CONFIG)
    found = {line.annotator_id: line.accuracy for line in report.annotators}
    assert found == {name: pytest.approx(right, abs=0.06) for name, right in planted.items()}
    assert report.annotators[-1].annotator_id == "liar"
    majority = report.pool.majority
    assert majority.items == 600 and 400 < majority.same < 600


def test_agreement_with_the_others_is_the_mean_over_couples_of_votes() -> None:
    votes = [vote(f"{who}1", outcome, who) for who, outcome in zip("xyz", "aab", strict=True)]
    votes += [vote(f"{who}2", "a", who, "other") for who in "xy"]
    lines = {line.annotator_id: line.with_others for line in report_on(votes, CONFIG).annotators}
    assert lines["x"].value == pytest.approx(2 / 3) and lines["x"].n == 3
    assert (lines["z"].value, lines["z"].n) == (0.0, 2)


def test_models_are_measured_against_people_and_never_counted_among_them() -> None:
    people = crowd({"x": 0.9, "y": 0.9}, 50)
    machine = [
        one | {"annotator_id": "m", "annotator_kind": "model"} for one in crowd({"m": 1}, 50)
    ]
    alone, both = report_on(people, CONFIG), report_on(people + machine, CONFIG)
    assert alone.pool.annotators == both.pool.annotators == 2
    assert alone.pool.observed == both.pool.observed and alone.pool.cohen == both.pool.cohen
    assert alone.pool.cohen.value is not None
    line = next(line for line in both.annotators if line.kind == "model")
    assert line.with_others.n == 100
    only = report_on(machine, CONFIG)
    assert only.pool.annotators == 1 and only.pool.votes == 50


def test_gold_counts_for_everybody_but_those_who_made_it() -> None:
    votes = crowd({"boss": 1.0, "good": 1.0, "coin": 0.5}, 40, gold=True)
    report = report_on(votes, CONFIG, gold_by=("boss",))
    rows = {line.annotator_id: line for line in report.annotators}
    assert report.gold_items == 40 and rows["boss"].gold is None
    good, coin = rows["good"].gold, rows["coin"].gold
    assert good is not None and coin is not None
    assert (good.n, good.accuracy) == (40, 1.0) and 0.3 < coin.accuracy < 0.7
    assert report_on(votes, CONFIG).gold_items == 0


def battles(count: int, annotators: int, shown_first: float = 0.0) -> list[Record]:
    """Players of planted strengths; who is shown first gains `shown_first` nats."""
    chance = random.Random(11)
    strengths = {"p": 0.8, "q": 0.0, "r": -0.8}
    records = []
    for i in range(count):
        one, other = chance.sample(sorted(strengths), 2)
        order = chance.choice([[0, 1], [1, 0]])
        gap = strengths[one] - strengths[other] + shown_first * (1 - 2 * order[0])
        outcome = "ab"[chance.random() > 1 / (1 + math.exp(-gap))]
        who = f"w{chance.randrange(annotators)}"
        more = {"player_a": one, "player_b": other, "display_order": order}
        records.append(vote(f"f{i}", outcome, who, f"P{i}", **more))
    return records


def test_planted_strengths_and_the_position_effect_are_recovered() -> None:
    (found,) = ratings_of(battles(3000, 20, shown_first=0.3), "half_win").values()
    assert [one.player for one in found.players] == ["p", "q", "r"]
    for one, strength in zip(found.players, (0.8, 0, -0.8), strict=True):
        assert one.elo == pytest.approx(1000 + ELO_PER_NAT * strength, abs=25)
        assert one.low < one.elo < one.high
    assert found.position_effect == pytest.approx(0.3 * ELO_PER_NAT, abs=20)
    assert found.by_annotator and found.note is None
    assert sum(one.battles for one in found.players) == 6000


def test_a_few_annotators_do_not_make_intervals_of_no_width() -> None:
    (found,) = ratings_of(battles(300, LEAST_ANNOTATORS - 1), "half_win").values()
    assert not found.by_annotator
    (alone,) = ratings_of(battles(300, 1), "half_win").values()
    assert all(one.high - one.low > 20 for one in alone.players)


def test_ratings_are_by_criterion_and_of_battles_between_named_players_only() -> None:
    votes = [
        vote("f", "a", "x", player_a="p", player_b="q"),
        vote("g", "b", "x", player_a="p", player_b="q", criterion="helpful"),
        vote("h", "b", "x"),
        vote("i", "b", "x", player_a="p", player_b="p"),
        vote("j", "skip", "x", player_a="p", player_b="q"),
        vote("k", "b", "x", player_a="p", player_b="q", gold=True),
        vote("l", "b", "m", player_a="p", player_b="q", annotator_kind="model"),
    ]
    found = ratings_of(votes, "half_win")
    assert {name: one.battles for name, one in found.items()} == {"overall": 1, "helpful": 1}
    assert found["overall"].players[0].player == "p" and found["helpful"].players[0].player == "q"
    assert found["overall"].note is not None and found["overall"].position_effect is None
    models = ratings_of(votes[-1:], "half_win")["overall"]
    assert models.battles == 1 and models.players[0].player == "q"
    assert ratings_of([votes[2]], "half_win") == {}
