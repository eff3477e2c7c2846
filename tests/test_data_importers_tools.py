"""Projects of annotation tools, Label Studio and Argilla, become raw records."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from align.data.config import FeedbackSource
from align.data.errors import DataError
from align.data.feedback import read_feedback
from align.data.messages import assistant, user
from align.data.schemas import Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert


def pairs_of(records: list[Record]) -> list[Record]:
    """What the records become."""
    parts = convert(records, FeedbackConfig(), held_out=0.1)
    return [pair for part in parts for pair in part.pairs.to_pylist()]


def read(
    folder: Path, format: str, *rows: object, share: float = 0.01, **options: Any
) -> list[Record]:
    path = folder / "export.json"
    path.write_text(json.dumps(rows), "utf-8")
    source = FeedbackSource.model_validate({"format": format, "path": path} | options)
    return read_feedback([source], share, folder / "rejected.jsonl")


def rejected(folder: Path) -> list[tuple[int, str, str]]:
    rows = map(json.loads, (folder / "rejected.jsonl").read_text("utf-8").splitlines())
    return [(row["line"], row["field"], row["reason"]) for row in rows]


def result(name: str, kind: str, value: object, to_name: str = "x") -> dict[str, Any]:
    return {"from_name": name, "to_name": to_name, "type": kind, "value": {kind: value}}


def picked(side: object) -> dict[str, Any]:
    return result("pw", "pairwise", None) | {"value": {"selected": side}}


def annotation(*results: object, **changes: object) -> dict[str, Any]:
    return {
        "id": 7,
        "completed_by": 3,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-03-01T13:00:00.5+01:00",
        "lead_time": 12.5,
    } | changes


def task(*annotations: object, **changes: object) -> dict[str, Any]:
    data = {"prompt": "Hi", "answer1": "A", "answer2": "B"}
    return {"id": 1, "project": 83, "data": data, "annotations": list(annotations)} | changes


def argilla(responses: object, suggestions: object = None, **changes: object) -> dict[str, Any]:
    return {
        "id": "r1",
        "fields": {"prompt": "Hi", "response1": "A", "response2": "B"},
        "metadata": {},
        "suggestions": suggestions or {},
        "responses": responses,
    } | changes


def said(value: object, user_id: object = "u1", **more: object) -> dict[str, Any]:
    return {"value": value, "user_id": user_id} | more


def test_a_pairwise_annotation_keeps_who_when_and_how_long(tmp_path: Path) -> None:
    (record,) = read(tmp_path, "label_studio", task(annotation(picked("right"))))
    assert record["kind"] == "comparison" and record["outcome"] == "b"
    assert record["completions"] == [assistant("A"), assistant("B")]
    assert record["created_at"] == datetime(2026, 3, 1, 12, 0, 0, 500_000, UTC)
    assert record["annotator_id"] == "label_studio-3" and record["duration_s"] == 12.5
    assert record["source"] == "label_studio-83" and record["display_order"] == [0, 1]
    assert record["gold"] is False


def test_ground_truth_is_gold_and_a_cancelled_annotation_is_a_skip(tmp_path: Path) -> None:
    gold = annotation(picked("left"), ground_truth=True, id=1, completed_by={"id": 9, "email": "e"})
    skip = annotation(was_cancelled=True, id=2)
    first, second = read(tmp_path, "label_studio", task(gold, skip))
    assert first["gold"] is True and first["annotator_id"] == "label_studio-9"
    assert second["outcome"] == "skip"


def test_the_config_says_where_prompt_and_answers_are(tmp_path: Path) -> None:
    data = {"question": "Hi", "left": "A", "right": "B", "prompt": "no", "answer": "no"}
    fields = {"prompt": "question", "completions": ["left", "right"]}
    row = task(annotation(picked("left")), data=data)
    (record,) = read(tmp_path, "label_studio", row, fields=fields)
    assert record["prompt"] == user("Hi") and record["completions"][1] == assistant("B")


def test_a_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    chat = [*user("Hi"), *assistant("Yes?"), *user("Why?")]
    data = {"prompt": chat, "answer1": assistant("A"), "answer2": "B"}
    (record,) = read(tmp_path, "label_studio", task(annotation(picked("left")), data=data))
    assert record["prompt"] == chat and record["completions"][0] == assistant("A")


ITEMS = [
    {"id": "x", "title": "1", "body": "A"},
    {"id": "y", "body": "B"},
    {"id": 3, "title": "C"},
]


@pytest.mark.parametrize(
    ("ranker", "ranks", "answers"),
    [
        ({"rank": ["y", "3", "x"]}, [3, 1, 2], "ABC"),
        ({"rank": ["y", 3], "_": ["x"]}, [1, 2], "BC"),  # x was left in the list: nobody ranked it
        ({"good": ["y"], "bad": ["3", "x"], "_": []}, [2, 1, 2], "ABC"),
        ({"good": ["y", "x"], "fine": [], "bad": ["3"]}, [1, 1, 2], "ABC"),
    ],
)
def test_a_ranker_gives_an_order_or_ordered_buckets(
    tmp_path: Path, ranker: object, ranks: list[int], answers: str
) -> None:
    row = task(
        annotation(result("rank", "ranker", ranker, "list")), data={"prompt": "Hi", "items": ITEMS}
    )
    asked = [{"name": "rank", "choices": ["bad", "fine", "good"], "criterion": "helpful"}]
    (record,) = read(tmp_path, "label_studio", row, questions=asked)
    assert record["kind"] == "ranking" and record["ranks"] == ranks
    assert record["completions"] == [assistant(text) for text in answers]
    assert record["criterion"] == "helpful"


def test_a_list_of_texts_is_ranked_by_place(tmp_path: Path) -> None:
    ranking = annotation(result("rank", "ranker", {"rank": ["1", "0"]}))
    row = task(ranking, data={"prompt": "Hi", "answers": ["A", "B"]})
    (record,) = read(tmp_path, "label_studio", row)
    assert record["ranks"] == [2, 1]


GRADES = [
    {"name": "clear", "scale": [1, 5], "criterion": "helpful"},
    {"name": "rude", "scale": [5, 1], "criterion": "harmless"},
    {"name": "true", "choices": ["no", "partly", "yes"], "criterion": "honest"},
]


def test_ratings_and_choices_grade_the_answer_that_they_are_about(tmp_path: Path) -> None:
    one = annotation(
        result("clear", "rating", 5, "answer1"),
        result("clear", "rating", 2, "answer2"),
        result("rude", "number", 4, "answer1"),
        result("true", "choices", ["partly"], "answer1"),
        result("why", "text", ["because"], "answer1"),
    )
    first, second = read(tmp_path, "label_studio", task(one), questions=GRADES)
    assert [(given["question_id"], given["value"]) for given in first["answers"]] == [
        ("clear", 1.0),
        ("rude", 0.25),
        ("true", 0.5),
    ]
    assert first["completions"] == [assistant("A")] and first["criterion"] == "overall"
    assert second["answers"][0]["value"] == 0.25 and second["criterion"] == "helpful"


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (annotation(picked("middle")), "pw"),
        (annotation(picked("left"), completed_by=None), "completed_by"),
        (annotation(picked("left"), created_at="today"), "created_at"),
        (annotation(picked("left"), result=None), "result"),
        (annotation(result("clear", "rating", 6, "answer1")), "clear"),
        (annotation(result("clear", "rating", "5", "answer1")), "clear"),
        (annotation(result("clear", "rating", 5, "prompt")), "clear"),
        (annotation(result("true", "choices", ["maybe"], "answer1")), "true"),
        (annotation(result("true", "choices", ["no", "yes"], "answer1")), "true"),
        (annotation(result("rank", "ranker", {"rank": ["answer1", "z"]})), "rank"),
        (annotation(result("rank", "ranker", {"rank": ["answer1", "answer1"]})), "rank"),
        (annotation(result("rank", "ranker", {"a": ["answer1"], "b": ["answer2"]})), "rank"),
    ],
)
def test_a_bad_annotation_sets_its_task_aside(tmp_path: Path, bad: object, field: str) -> None:
    good = task(annotation(picked("left"), id=1))
    row = task(annotation(picked("left"), id=2), bad)
    assert len(read(tmp_path, "label_studio", good, row, questions=GRADES)) == 1
    assert [(line, found) for line, found, _ in rejected(tmp_path)] == [(2, field)]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (annotation(picked("left"), lead_time="long"), "duration_s"),
        (annotation(result("rank", "ranker", {"rank": ["answer1"]})), "completions"),
    ],
)
def test_an_invalid_record_leaves_the_others_of_its_task(
    tmp_path: Path, bad: object, field: str
) -> None:
    row = task(annotation(picked("left"), id=2), bad)
    assert len(read(tmp_path, "label_studio", row)) == 1
    assert [(line, found) for line, found, _ in rejected(tmp_path)] == [(1, field)]


def test_several_labels_of_a_tag_that_the_config_leaves_out_do_no_harm(tmp_path: Path) -> None:
    one = annotation(picked("left"), result("flags", "choices", ["odd", "long"], "answer1"))
    assert len(read(tmp_path, "label_studio", task(one))) == 1


def test_replies_that_the_config_does_not_explain_are_left_out_unless_there_are_no_others(
    tmp_path: Path,
) -> None:
    other = result("other", "rating", 5, "answer1")
    both, alone = annotation(picked("left"), other), annotation(other, id=8)
    assert len(read(tmp_path, "label_studio", task(both), task(alone))) == 1
    ((line, field, reason),) = rejected(tmp_path)
    assert (line, field) == (2, "questions") and 'replies to ["other"] are worth' in reason


def test_an_annotation_without_its_person_is_set_aside(tmp_path: Path) -> None:
    anonymous = annotation(picked("left"))
    del anonymous["completed_by"]
    with pytest.raises(DataError, match="completed_by: there is no such column"):
        read(tmp_path, "label_studio", task(anonymous))


def test_a_task_that_nobody_annotated_says_nothing(tmp_path: Path) -> None:
    good = task(annotation(picked("left")))
    assert len(read(tmp_path, "label_studio", task(), good, task(annotation(id=9)))) == 1
    assert not (tmp_path / "rejected.jsonl").exists()


def test_a_task_without_answers_is_set_aside(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"completions: no field is an answer; found \[\"prompt"):
        read(tmp_path, "label_studio", task(data={"prompt": "Hi", "text": "A"}))


def test_answers_of_one_name_are_never_mixed_up(tmp_path: Path) -> None:
    twice = [{"id": "x", "body": "A"}, {"id": "x", "body": "B"}]
    row = task(annotation(), data={"prompt": "Hi", "items": twice})
    with pytest.raises(DataError, match="items: two answers of this task are called x"):
        read(tmp_path, "label_studio", row)


def test_argilla_labels_that_name_answers_are_comparisons_by_person(tmp_path: Path) -> None:
    given = {"better": [said("response2"), said("tie", "u2"), said("response1", "u3")]}
    records = read(tmp_path, "argilla", argilla(given))
    assert [one["outcome"] for one in records] == ["b", "tie", "a"]
    assert [one["annotator_id"] for one in records] == ["argilla-u1", "argilla-u2", "argilla-u3"]


def test_the_config_says_which_label_picks_which_answer(tmp_path: Path) -> None:
    given = {"better": [said("A"), said("B", "u2"), said("same", "u3"), said("?", "u4")]}
    asked = [{"name": "better", "picks": ["A", "B", "same"], "criterion": "honest"}]
    with pytest.raises(DataError, match=r"better: must be one of .*, found .\?."):
        read(tmp_path, "argilla", argilla(given), questions=asked)
    given["better"].pop()
    records = read(tmp_path, "argilla", argilla(given), questions=asked)
    assert [one["outcome"] for one in records] == ["a", "b", "tie"]
    assert {one["criterion"] for one in records} == {"honest"}


def test_picking_one_of_three_answers_is_best_of(tmp_path: Path) -> None:
    fields = {"prompt": "Hi", "response1": "A", "response2": "B", "response3": "C"}
    given = {"best": [said("response3"), said("none", "u2")]}
    asked = [{"name": "best", "picks": ["1", "2", "3", "none"]}]
    first, second = read(tmp_path, "argilla", argilla(given, fields=fields), questions=asked)
    assert (first["kind"], first["best_index"]) == ("best_of", 2)
    assert second["best_index"] is None and second["none_acceptable"] is True


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        (["response2", "response1"], [2, 1]),
        ([{"value": "response1", "rank": 1}, {"value": "response2", "rank": 1}], [1, 1]),
        ([{"value": "response1", "rank": 3}, {"value": "response2", "rank": 1}], [2, 1]),
    ],
)
def test_argilla_rankings_are_read_in_both_shapes(
    tmp_path: Path, value: object, ranks: list[int]
) -> None:
    (record,) = read(tmp_path, "argilla", argilla({"order": [said(value)]}))
    assert record["kind"] == "ranking" and record["ranks"] == ranks


def test_argilla_ratings_say_in_the_config_which_answer_they_are_about(tmp_path: Path) -> None:
    given = {
        "first": [said(5), said(2, "u2")],
        "second": [said(1)],
        "comment": [said("fine")],
    }
    asked = [
        {"name": "first", "scale": [1, 5], "about": "response1"},
        {"name": "second", "scale": [1, 5], "about": "response2"},
    ]
    records = read(tmp_path, "argilla", argilla(given), questions=asked)
    assert [one["answers"][0]["value"] for one in records] == [1.0, 0.0, 0.25]
    (pair,) = pairs_of(records)
    assert pair["chosen"] == assistant("A")


def test_drafts_are_left_out_and_discarded_responses_are_skips(tmp_path: Path) -> None:
    better = [
        said("response1", status="submitted"),
        said("response2", "u2", status="draft"),
        said("response2", "u3", status="discarded"),
    ]
    records = read(tmp_path, "argilla", argilla({"better": better}))
    assert [(one["annotator_id"], one["outcome"]) for one in records] == [
        ("argilla-u1", "a"),
        ("argilla-u3", "skip"),
    ]


def test_suggestions_are_judgements_of_models_that_nobody_saw_on_a_screen(tmp_path: Path) -> None:
    suggestions = {
        "better": {"value": "response1", "score": 0.9, "agent": "gpt"},
        "comment": {"value": "fine", "score": None, "agent": None},
    }
    person, model = read(tmp_path, "argilla", argilla({"better": [said("tie")]}, suggestions))
    assert (person["annotator_kind"], model["annotator_kind"]) == ("human", "model")
    assert model["annotator_id"] == "argilla-gpt" and model["display_order"] is None


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"better": [said("response1", None)]}, "responses.better.user_id"),
        ({"better": [{"value": "response1"}]}, "responses.better.user_id"),
        ({"better": [{"user_id": "u1"}]}, "value"),
        ({"better": [said("response1", status="lost")]}, "responses.better.status"),
        ({"better": "response1"}, "responses.better"),
        ({"labels": [said(["toxic", "violent"])]}, "questions"),
        ({"spans": [said([{"start": 0, "end": 1, "label": "x"}])]}, "questions"),
        ({"rating": [said(4)]}, "questions"),
        ({"true": [said(["yes", "no"])]}, "true"),
        ({"which": [said(2)]}, "which"),
        ({"order": [said(["response1", "response9"])]}, "order"),
    ],
)
def test_a_bad_argilla_record_is_set_aside(tmp_path: Path, bad: object, field: str) -> None:
    good = argilla({"better": [said("response1")]})
    asked = [
        {"name": "true", "choices": ["no", "yes"], "about": "response1"},
        {"name": "which", "picks": ["1", "2"]},
    ]
    assert len(read(tmp_path, "argilla", good, argilla(bad, id="r2"), questions=asked)) == 1
    ((line, found, _),) = rejected(tmp_path)
    assert (line, found) == (2, field)


@pytest.mark.parametrize("suggestions", [5, "response1", ["response1"]])
def test_suggestions_that_are_no_object_set_their_record_aside(
    tmp_path: Path, suggestions: object
) -> None:
    good = argilla({"better": [said("response1")]})
    assert len(read(tmp_path, "argilla", good, good | {"suggestions": suggestions})) == 1
    assert [(line, field) for line, field, _ in rejected(tmp_path)] == [(2, "suggestions")]


def test_an_argilla_record_without_responses_says_nothing(tmp_path: Path) -> None:
    good = argilla({"better": [said("response1")]})
    assert len(read(tmp_path, "argilla", argilla({}, id="r0"), good)) == 1
    assert not (tmp_path / "rejected.jsonl").exists()


def test_a_discarded_response_to_three_answers_says_nothing(tmp_path: Path) -> None:
    fields = {"prompt": "Hi", "response1": "A", "response2": "B", "response3": "C"}
    skip = argilla({"best": [said(None, status="discarded")]}, id="r2", fields=fields)
    good = argilla({"better": [said("response1")]})
    assert len(read(tmp_path, "argilla", good, skip)) == 1
    assert not (tmp_path / "rejected.jsonl").exists()


def test_a_question_that_a_person_left_open_says_nothing(tmp_path: Path) -> None:
    row = argilla({"better": [said("response1")], "clear": [said(None), said(3, "u2")]})
    asked = [{"name": "clear", "scale": [1, 5], "about": "response1"}]
    records = read(tmp_path, "argilla", row, questions=asked)
    assert [(one["kind"], one["annotator_id"]) for one in records] == [
        ("comparison", "argilla-u1"),
        ("question", "argilla-u2"),
    ]


FIELDS = {"prompt": "Hi", "response1": "A", "response2": "B"}
RANKING = [{"rank": 2, "value": "response1"}, {"rank": 1, "value": "response2"}]
ARGILLA_LAYOUTS: dict[str, dict[str, Any]] = {
    "1.x record": {
        "id": "r",
        "fields": FIELDS,
        "responses": [
            {
                "user_id": "u1",
                "status": "submitted",
                "values": {"better": {"value": "response1"}, "order": None},
            },
            {"user_id": "u2", "status": "submitted", "values": {"order": {"value": RANKING}}},
            {"user_id": "u3", "status": "discarded", "values": None},
            {"user_id": "u4", "status": "draft", "values": {"better": {"value": "response2"}}},
        ],
        "suggestions": [{"question_name": "better", "value": "response2", "agent": "gpt"}],
    },
    "1.x table": FIELDS
    | {
        "better": [
            {"user_id": "u1", "value": "response1", "status": "submitted"},
            {"user_id": "u3", "value": None, "status": "discarded"},
            {"user_id": "u4", "value": "response2", "status": "draft"},
        ],
        "better-suggestion": "response2",
        "better-suggestion-metadata": {"type": "model", "score": 0.5, "agent": "gpt"},
        "order": [
            {
                "user_id": "u2",
                "value": {"rank": [2, 1], "value": ["response1", "response2"]},
                "status": "submitted",
            }
        ],
        "order-suggestion": None,
        "order-suggestion-metadata": {"type": None, "score": None, "agent": None},
        "external_id": "e",
        "metadata": "{}",
    },
    "2.x table": FIELDS
    | {
        "id": "r",
        "status": "completed",
        "_server_id": "s",
        "better.responses": ["response1", None, "response2"],
        "better.responses.users": ["u1", "u3", "u4"],
        "better.responses.status": ["submitted", "discarded", "draft"],
        "better.suggestion": "response2",
        "better.suggestion.score": 0.5,
        "better.suggestion.agent": "gpt",
        "order.responses": [["response2", "response1"]],
        "order.responses.users": ["u2"],
        "order.responses.status": ["submitted"],
        "order.suggestion": None,
    },
}


@pytest.mark.parametrize("layout", ARGILLA_LAYOUTS)
def test_every_layout_of_argilla_says_the_same(tmp_path: Path, layout: str) -> None:
    records = read(tmp_path, "argilla", ARGILLA_LAYOUTS[layout])
    said = {one["annotator_id"]: one.get("outcome") or one["ranks"] for one in records}
    assert said == {
        "argilla-u1": "a",
        "argilla-u2": [2, 1],
        "argilla-u3": "skip",
        "argilla-gpt": "b",
    }
    assert {one["annotator_kind"] for one in records} == {"human", "model"}
    assert all(one["completions"] == [assistant("A"), assistant("B")] for one in records)


@pytest.mark.parametrize(
    ("layout", "changes", "field"),
    [
        ("1.x record", {"responses": ["u1"]}, "responses"),
        ("1.x record", {"responses": [None]}, "responses"),
        ("2.x table", {"better.responses": 5}, "better.responses"),
        (
            "1.x record",
            {"responses": [{"user_id": "u1", "values": {"better": 1}}]},
            "responses.better",
        ),
        ("1.x record", {"suggestions": {"better": "response1"}}, "suggestions"),
        ("1.x record", {"suggestions": [{"value": "response1"}]}, "question_name"),
        (
            "1.x table",
            {"better": [{"user_id": None, "value": "response1"}]},
            "responses.better.user_id",
        ),
        ("2.x table", {"better.responses.users": ["u1"]}, "better.responses"),
        ("2.x table", {"better.responses.status": "submitted"}, "better.responses"),
    ],
)
def test_a_bad_row_of_another_layout_of_argilla_is_set_aside(
    tmp_path: Path, layout: str, changes: dict[str, object], field: str
) -> None:
    bad = ARGILLA_LAYOUTS[layout] | changes
    assert len(read(tmp_path, "argilla", argilla({"better": [said("tie")]}), bad)) == 1
    assert [(line, found) for line, found, _ in rejected(tmp_path)] == [(2, field)]


def minimal(**columns: object) -> dict[str, Any]:
    """A row of Label Studio's JSON-MIN."""
    return {
        "prompt": "Hi",
        "answer1": "A",
        "answer2": "B",
        "id": 1,
        "annotator": 3,
        "annotation_id": 7,
        "created_at": "2026-03-01T12:00:00Z",
        "updated_at": "2026-03-01T12:00:00Z",
        "lead_time": 2.5,
    } | columns


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"pw": [{"selected": "right"}]}, "b"),
        ({"best": "answer1"}, "a"),
        ({"rank": [{"ranker": {"rank": ["answer2", "answer1"]}}]}, [2, 1]),
        ({"pw": [{"selected": "left"}], "why": "because"}, "a"),
    ],
)
def test_json_min_is_read_as_the_full_export(
    tmp_path: Path, columns: dict[str, object], said: object
) -> None:
    (record,) = read(tmp_path, "label_studio", minimal(**columns))
    assert (record.get("outcome") or record["ranks"]) == said
    assert record["annotator_id"] == "label_studio-3" and record["duration_s"] == 2.5
    assert record["completions"] == [assistant("A"), assistant("B")]


def test_grades_of_json_min_say_in_the_config_what_they_are_about(tmp_path: Path) -> None:
    row = minimal(clear=[{"rating": 4}], true="yes", both={"choices": ["x", "y"]})
    asked = [
        {"name": "clear", "scale": [1, 5], "about": "answer1"},
        {"name": "true", "choices": ["no", "yes"], "about": "answer2"},
    ]
    first, second = read(tmp_path, "label_studio", row, questions=asked)
    assert first["answers"][0]["value"] == 0.75 and first["completions"] == [assistant("A")]
    assert second["answers"][0]["value"] == 1.0 and second["completions"] == [assistant("B")]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (minimal(), "questions"),
        (minimal(verdict="fine"), "questions"),
        (minimal(pw=[{"selected": "middle"}]), "pw"),
        (minimal(pw=[{"selected": "left"}], annotator=None), "completed_by"),
    ],
)
def test_a_bad_row_of_json_min_is_set_aside(tmp_path: Path, bad: object, field: str) -> None:
    good = minimal(pw=[{"selected": "left"}])
    assert len(read(tmp_path, "label_studio", good, bad)) == 1
    assert [(line, found) for line, found, _ in rejected(tmp_path)] == [(2, field)]


def test_annotations_of_old_exports_are_called_completions(tmp_path: Path) -> None:
    row = task(annotation(picked("left")))
    row["completions"] = row.pop("annotations")
    assert len(read(tmp_path, "label_studio", row)) == 1
