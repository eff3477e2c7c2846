"""Annotators and players measured from raw records: planted ones are found again."""

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import FEEDBACK, Record, completed
from align.reward.annotator_report import report_on
from align.reward.config import FeedbackConfig
from align.reward.player_ratings import LEAST_ANNOTATORS, Ratings, ratings_of
from align.reward.ratings.elo import ELO_PER_NAT

CONFIG = FeedbackConfig()
DAY, HOUR = datetime(2026, 3, 1, tzinfo=UTC), timedelta(hours=1)


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


def test_agreement_does_not_depend_on_how_the_ids_of_the_answers_are_ordered() -> None:
    votes = crowd({"x": 0.9, "y": 0.7}, 60)
    turned = [
        one | {"completion_ids": ["z", "b"]} if int(one["prompt_id"], 16) % 3 else one
        for one in votes
    ]
    one, other = report_on(votes, CONFIG).pool, report_on(turned, CONFIG).pool
    for name in ("cohen", "cohen_weighted", "fleiss", "krippendorff_nominal"):
        found, again = getattr(one, name), getattr(other, name)
        assert found.value == pytest.approx(again.value, abs=1e-12) and found.n == again.n == 60


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


def rated(*outcomes: str, players: str = "pq", annotators: int = 1) -> Ratings:
    """The ratings after battles of two players with these outcomes for the first."""
    (found,) = ratings_of(
        [
            vote(f"f{i}", one, f"w{i % annotators}", player_a=players[0], player_b=players[1])
            for i, one in enumerate(outcomes)
        ],
        "half_win",
    ).values()
    return found


@pytest.mark.parametrize("annotators", [1, LEAST_ANNOTATORS])
@pytest.mark.parametrize(
    ("outcomes", "least"),
    [(["a"], 400), (["tie"] * 20, 100), (["a"] * 20, 300), (["a"] * 1000, 200)],
    ids=["one battle", "ties only", "undefeated", "undefeated for long"],
)
def test_votes_that_are_all_alike_leave_a_finite_and_wide_interval(
    outcomes: list[str], least: float, annotators: int
) -> None:
    """Every resample of them is the same, but the next battle may be another one."""
    for one in rated(*outcomes, annotators=annotators).players:
        assert least < one.high - one.low < 2000
        assert one.low < one.elo - least / 3 and one.elo + least / 3 < one.high


def test_more_battles_make_an_undefeated_player_better_and_the_interval_narrower() -> None:
    few, many = (rated(*["a"] * count).players[0] for count in (2, 200))
    assert few.elo < many.elo and few.high - few.low > many.high - many.low


def test_players_who_never_met_are_apart_and_the_best_of_each_group_is_first() -> None:
    votes = [
        vote(f"{i}{a}{b}", "aab"[i % 3], "x", f"P{i}", player_a=a, player_b=b)
        for i in range(9)
        for a, b in ("pq", "yz")
    ]
    (found,) = ratings_of(votes, "half_win", next_battles=4).values()
    assert [[one.player for one in group] for group in found.groups] == [["p", "q"], ["y", "z"]]
    assert sum(one.elo for one in found.groups[0]) == pytest.approx(2000)
    # Who never met should meet first, and nobody else before all of these have.
    assert {frozenset(pair) for pair in found.next_battles} == {
        frozenset((a, b)) for a in "pq" for b in "yz"
    }


def test_online_elo_goes_by_the_time_of_the_battles() -> None:
    votes = [
        vote(str(i), outcome, "x", player_a="p", player_b="q") | {"created_at": DAY + i * HOUR}
        for i, outcome in enumerate("abb")
    ]
    forth, back = (ratings_of(some, "half_win")["overall"].players for some in (votes, votes[::-1]))
    assert forth == back
    online = {one.player: one.online for one in forth}
    assert online["p"] + online["q"] == pytest.approx(2000)
    # +16, then -17.47 from 1016 against 984, then -15.86 from 998.53 against 1001.47.
    assert online["p"] == pytest.approx(982.67, abs=0.01)


def test_how_often_equal_players_tie_is_said_where_ties_have_a_parameter() -> None:
    """Of 40 battles of two players who win as often, 16 are ties."""
    outcomes = ["tie"] * 16 + ["a", "b"] * 12
    votes = [vote(f"f{i}", one, "x", player_a="p", player_b="q") for i, one in enumerate(outcomes)]
    for ties in ("davidson", "rao_kupper"):
        (found,) = ratings_of(votes, ties).values()
        assert found.even_tie == pytest.approx(0.4, abs=0.01)
    assert rated(*outcomes).even_tie is None


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
