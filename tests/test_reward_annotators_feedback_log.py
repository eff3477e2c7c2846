"""The feedback log: what annotators said of gold items, against those who know."""

from datetime import UTC, datetime, timedelta
from typing import Any

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import FEEDBACK, Record, completed
from align.reward.annotators.feedback_log import feedback_log

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def vote(name: str, who: str, outcome: str, prompt: str = "Hi", **fields: Any) -> Record:
    texts = fields.pop("texts", "ab")
    made = header(
        "comparison", name, user(prompt), [assistant(text) for text in texts], source="test",
        license=None, annotator_id=who, guideline_version="1", completion_ids=list(texts),
        created_at=DAY,
    )  # fmt: skip
    return completed(made | {"outcome": outcome, "gold": True} | fields, FEEDBACK["comparison"])


def test_what_differs_from_gold_is_logged_whatever_side_it_was_on() -> None:
    records = [
        vote("g", "boss", "a"),
        vote("same", "ann", "b", texts="ba"),
        vote("other", "ann", "a", texts="ba", created_at=DAY + timedelta(days=2)),
        vote("tie", "ann", "tie", created_at=DAY + timedelta(days=1)),
        vote("skip", "ann", "skip"),
        vote("not gold", "ann", "b", gold=False),
        vote("elsewhere", "ann", "b", prompt="Ho"),
    ]
    rows = feedback_log(records, ["boss"])
    assert [(row["feedback_id"], row["said"], row["gold_says"]) for row in rows] == [
        ("tie", "tie", "a"),
        ("other", "b", "a"),
    ]
    assert rows[0]["completions"] == {"a": assistant("a"), "b": assistant("b")}
    assert rows[0]["guideline_version"] == "1" and rows[0]["prompt"] == user("Hi")


def test_those_who_know_are_asked_by_majority_and_say_nothing_where_they_are_split() -> None:
    split = [vote("g1", "boss", "a"), vote("g2", "chief", "b"), vote("f", "ann", "b")]
    assert feedback_log(split, ["boss", "chief"]) == []
    (row,) = feedback_log([*split, vote("g3", "head", "a")], ["boss", "chief", "head"])
    assert (row["annotator_id"], row["said"], row["gold_says"]) == ("ann", "b", "a")


def test_annotators_are_in_the_order_of_their_names() -> None:
    records = [vote(who, who, "b") for who in ("zoe", "ann")] + [vote("g", "boss", "a")]
    assert [row["annotator_id"] for row in feedback_log(records, ["boss"])] == ["ann", "zoe"]
