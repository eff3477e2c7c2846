"""Known exports of human feedback, handmade and real, become raw records."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.data.config import FeedbackFormat, FeedbackSource
from align.data.errors import DataError
from align.data.feedback import read_feedback
from align.data.messages import Message, assistant, user
from align.data.schemas import FEEDBACK, Record, write_table

SHARED = Path(__file__).parents[2] / "shared" / "data" / "feedback"
needs_shared = pytest.mark.skipif(
    not SHARED.exists(), reason="needs the real feedback in ../shared"
)


def read(
    format: FeedbackFormat, path: Path, folder: Path, rows: int | None = None, share: float = 0.01
) -> list[Record]:
    source = FeedbackSource(format=format, path=path, rows=rows)
    return read_feedback([source], share, folder / "rejected.jsonl")


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def llmfao_folder(folder: Path, *votes: tuple[str, str, str]) -> Path:
    """Two pairs, and votes of (pair id, worker, winner)."""
    jsonl(
        folder / "pairs-crowd.jsonl",
        {"id": 0, "text": "Hi", "result_x": "A", "result_y": "B"},
        {"id": 1, "text": "Hi", "result_x": "A", "result_y": ""},
    )
    with (folder / "crowd-comparisons.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "worker", "winner", "left", "right"])
        writer.writerows([*vote, "Model A", "Model B"] for vote in votes)
    return folder


def test_llmfao_votes_become_comparisons_of_models(tmp_path: Path) -> None:
    votes = [("0", "7", "left"), ("0", "8", "right"), ("1", "7", "tie")]
    first, second, third = read("llmfao", llmfao_folder(tmp_path, *votes), tmp_path)
    assert [one["outcome"] for one in (first, second, third)] == ["a", "b", "tie"]
    assert first["feedback_id"] == "llmfao-0-7" and first["annotator_id"] == "llmfao-worker-7"
    assert first["completions"] == [assistant("A"), assistant("B")]
    assert (first["player_a"], first["player_b"]) == ("Model A", "Model B")
    assert first["display_order"] == [0, 1]
    assert third["completions"][1] == assistant("")  # a model's empty answer was shown and judged
    assert first["completion_ids"][0] == third["completion_ids"][0]


def test_llmfao_votes_on_unknown_pairs_are_set_aside(tmp_path: Path) -> None:
    votes = [("0", "7", "left"), ("5", "7", "left"), ("0", "8", "both")]
    assert len(read("llmfao", llmfao_folder(tmp_path, *votes), tmp_path, share=1)) == 1
    assert [(one["line"], one["field"]) for one in rejected(tmp_path)] == [(3, "id"), (4, "winner")]


def test_the_same_vote_twice_is_kept_once(tmp_path: Path) -> None:
    votes = [("0", "7", "left"), ("0", "7", "right")]
    assert len(read("llmfao", llmfao_folder(tmp_path, *votes), tmp_path)) == 1
    assert rejected(tmp_path)[0]["reason"] == "llmfao-0-7 is the id of an earlier row"


def pandalm_row(**changes: object) -> dict[str, object]:
    return {
        "idx": 3,
        "cmp_key": "opt-7b_llama-7b",
        "instruction": "Say",
        "input": "hi",
        "response1": "A",
        "response2": "B",
        "annotator1": 1,
        "annotator2": 2,
        "annotator3": 0,
    } | changes


def test_pandalm_rows_become_one_comparison_per_annotator(tmp_path: Path) -> None:
    path = tmp_path / "testset-v1.json"
    path.write_text(json.dumps([pandalm_row()]))
    records = read("pandalm", tmp_path, tmp_path)
    assert [one["outcome"] for one in records] == ["a", "b", "tie"]
    assert len({one["annotator_id"] for one in records}) == 3
    assert records[0]["prompt"] == user("Say\n\nhi")
    assert records[0]["generator_ids"] == ["opt-7b", "llama-7b"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"response1": True}, "response1"),
        ({"annotator2": 3}, "annotator2"),
        ({"annotator2": True}, "annotator2"),
        ({"cmp_key": "opt"}, "cmp_key"),
        ({"response1": "B"}, "completion_ids"),
    ],
)
def test_a_bad_pandalm_row_is_set_aside_as_a_whole(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([pandalm_row(idx=1), pandalm_row(**changes)]))
    assert len(read("pandalm", path, tmp_path)) == 3
    assert {(one["line"], one["field"]) for one in rejected(tmp_path)} == {(2, field)}


def reply(name: str, rank: int | None, *replies: object, **changes: object) -> dict[str, Any]:
    return {
        "message_id": name,
        "text": f"text {name}",
        "role": "assistant",
        "rank": rank,
        "deleted": False,
        "synthetic": False,
        "replies": list(replies),
    } | changes


def tree(*replies: object) -> dict[str, object]:
    root = reply("root", None, *replies, role="prompter")
    return {"message_tree_id": "tree", "prompt": root}


def test_oasst_siblings_become_rankings_of_those_that_people_wrote(tmp_path: Path) -> None:
    follow_up = reply("ask", None, reply("x", 1), reply("y", 0), role="prompter")
    replies = (
        reply("a", 3, follow_up),
        reply("b", 0, synthetic=True),
        reply("c", 1),
        reply("d", 2, deleted=True),
        reply("e", None),
        reply("f", 3),
    )
    first, second = read("oasst", jsonl(tmp_path / "trees.jsonl", tree(*replies)), tmp_path)
    assert first["completion_ids"] == ["a", "c", "f"] and first["ranks"] == [2, 1, 2]
    assert second["ranks"] == [2, 1]
    assert second["prompt"] == [
        *user("text root"),
        *assistant("text a"),
        *user("text ask"),
    ]
    assert first["cluster_id"] == second["cluster_id"]


def flat(*messages: dict[str, Any], parent: object = None) -> list[dict[str, Any]]:
    """The messages of trees as rows, the replies before what they reply to."""
    rows: list[dict[str, Any]] = []
    for message in messages:
        rows += flat(*message["replies"], parent=message["message_id"])
        own = {name: value for name, value in message.items() if name != "replies"}
        rows.append(own | {"parent_id": parent, "message_tree_id": "tree"})
    return rows


def test_oasst_messages_one_a_row_give_the_rankings_of_their_trees(tmp_path: Path) -> None:
    follow_up = reply("ask", None, reply("x", 1), reply("y", 0), role="prompter")
    root = reply("root", None, reply("a", 1, follow_up), reply("b", 0), role="prompter")
    expected = read("oasst", jsonl(tmp_path / "x.jsonl", tree(*root["replies"])), tmp_path)
    rows = [row | {"rank": row["rank"] and float(row["rank"])} for row in flat(root)]
    table = pa.Table.from_pylist(rows)  # as pandas writes ranks that may be missing
    pq.write_table(table, tmp_path / "x.parquet")
    found = read("oasst", tmp_path / "x.parquet", tmp_path)
    by_prompt = {one["feedback_id"]: one for one in found}
    assert by_prompt.keys() == {one["feedback_id"] for one in expected}
    assert by_prompt["oasst-root"]["ranks"] == [2, 1]
    assert by_prompt["oasst-ask"]["prompt"] == expected[1]["prompt"]


def test_oasst_messages_that_hang_nowhere_are_named(tmp_path: Path) -> None:
    root = reply("root", None, reply("a", 1), reply("b", 0), role="prompter")
    lost, below, circle = (flat(reply(name, 0))[0] for name in ("lost", "below", "circle"))
    rows = [
        *flat(root),
        lost | {"parent_id": "gone"},
        below | {"parent_id": "lost"},
        circle | {"parent_id": "circle"},
        circle,
    ]
    assert len(read("oasst", jsonl(tmp_path / "x.jsonl", *rows), tmp_path, share=1)) == 1
    assert sorted((one["line"], one["field"]) for one in rejected(tmp_path)) == [
        (4, "parent_id"),
        (5, "parent_id"),
        (6, "parent_id"),
        (7, "message_id"),
    ]


def test_an_oasst_reply_alone_makes_no_ranking(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", tree(reply("a", 0), reply("b", 1, synthetic=True)))
    with pytest.raises(DataError, match=r"x\.jsonl:1: no rows in it"):
        read("oasst", path, tmp_path)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"message_tree_id": "t"}, "prompt"),
        ({"message_tree_id": "t", "prompt": "Hi"}, "prompt"),
        (tree(reply("a", 0), reply("b", 1, replies="none")), "replies"),
        (tree(reply("a", 0), {"role": "assistant", "rank": 1}), "text"),
        (tree(reply("a", True), reply("b", 0)), "rank"),
        (tree(reply("a", 1), reply("b", 0) | {"rank": 0.5}), "rank"),
        (tree(reply("a", 0, reply("q", 0, role="judge"))), "role"),
        ({"prompt": tree(reply("a", 0), reply("b", 1))["prompt"]}, "message_tree_id"),
    ],
)
def test_a_broken_oasst_tree_is_set_aside(tmp_path: Path, bad: object, field: str) -> None:
    good = tree(reply("a", 0), reply("b", 1))
    assert len(read("oasst", jsonl(tmp_path / "x.jsonl", good, bad), tmp_path)) == 1
    assert [(one["line"], one["field"]) for one in rejected(tmp_path)] == [(2, field)]


def test_truthfulqa_rows_become_questions_by_two_criteria(tmp_path: Path) -> None:
    yes = {"prompt": "Q: Why?\nA: One\nA: two.\nTrue:", "completion": " yes"}
    no = {"prompt": "Q: Why?\nA: One\nA: two.\nTrue:", "completion": " no"}
    jsonl(tmp_path / "truth.jsonl", yes, no)
    jsonl(tmp_path / "info.jsonl", {"prompt": "Q: Why?\nA: \nHelpful:", "completion": " no"})
    first, again, other = read("truthfulqa_judge", tmp_path, tmp_path)
    assert first["prompt"] == user("Why?") and first["completions"] == [assistant("One\nA: two.")]
    assert [one["criterion"] for one in (first, again, other)] == ["honest", "honest", "helpful"]
    assert [one["answers"][0]["value"] for one in (first, again, other)] == [1.0, 0.0, 0.0]
    assert first["feedback_id"] != again["feedback_id"]
    assert first["completion_ids"] == again["completion_ids"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"prompt": "Q: Why?\nA: One.\nNice:", "completion": " yes"}, "prompt"),
        ({"prompt": "Q: Why?\nA: One.\nTrue:", "completion": " maybe"}, "completion"),
        ({"completion": " yes"}, "prompt"),
    ],
)
def test_a_bad_truthfulqa_row_is_set_aside(tmp_path: Path, bad: object, field: str) -> None:
    good = {"prompt": "Q: Why?\nA: One.\nTrue:", "completion": " yes"}
    assert len(read("truthfulqa_judge", jsonl(tmp_path / "x.jsonl", good, bad), tmp_path)) == 1
    assert [(one["line"], one["field"]) for one in rejected(tmp_path)] == [(2, field)]


SHEET = """
simple_propositions:
  apology: {prompt: "Does it apologise?"}
  insult: {prompt: "Does it insult?"}
  partial: {prompt: "Does it answer?"}
  asks: {prompt: "Does it ask?"}
derived_propositions:
  refusal: {apology: true, insult: false}
  no_compliance: {partial: false, asks: false}
completion_classes:
  ideal:
    hard_refuse: {refusal: true}
    comply: {no_compliance: false, insult: false}
"""


def rbr_row(kind: str, labels: dict[str, bool], text: str = "A") -> dict[str, object]:
    return {
        "response_type": kind,
        "prompt": user("Hi"),
        "completion": assistant(text),
        "propositions": dict.fromkeys(("apology", "insult", "partial", "asks"), False) | labels,
    }


def rbr_folder(folder: Path, *rows: object) -> Path:
    (folder / "proposition_prompts.yaml").write_text(SHEET)
    jsonl(folder / "train.jsonl", *rows)
    return folder


def severities(records: list[Record], annotator_kind: str) -> dict[str, int]:
    return {
        one["rule_id"]: one["severity"]
        for one in records
        if one["annotator_kind"] == annotator_kind
    }


def test_rbr_labels_are_rules_by_the_answer_that_was_wanted(tmp_path: Path) -> None:
    refuse = rbr_folder(tmp_path, rbr_row("Hard Refuse", {"insult": True, "partial": True}))
    records = read("rbr", refuse, tmp_path)
    assert severities(records, "human") == {"apology": 5, "insult": 5}
    assert severities(records, "programmatic") == {"apology": 1, "insult": 1}
    assert records[0]["rule_text"] == "The answer must be yes: Does it apologise?"


@pytest.mark.parametrize(
    ("labels", "severity"), [({}, 5), ({"partial": True}, 1), ({"asks": True}, 1)]
)
def test_rbr_compliance_is_one_rule_with_alternatives(
    tmp_path: Path, labels: dict[str, bool], severity: int
) -> None:
    records = read("rbr", rbr_folder(tmp_path, rbr_row("Comply", labels)), tmp_path)
    assert severities(records, "human") == {"no_compliance": severity, "insult": 1}
    assert severities(records, "programmatic") == {"no_compliance": 5}


def test_a_repeated_rbr_answer_has_two_annotations_and_one_reference(tmp_path: Path) -> None:
    rows = [rbr_row("Hard Refuse", {}), rbr_row("Hard Refuse", {"insult": True})]
    records = read("rbr", rbr_folder(tmp_path, *rows), tmp_path)
    assert Counter(one["annotator_kind"] for one in records) == {"human": 4, "programmatic": 2}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"response_type": "Shrug"}, "response_type"),
        ({"propositions": {"apology": True}}, "propositions.insult"),
        ({"propositions": []}, "propositions"),
        ({"prompt": "Hi"}, "prompt"),
        ({"completion": user("Hi")}, "completion"),
    ],
)
def test_a_bad_rbr_row_is_set_aside(tmp_path: Path, changes: dict[str, object], field: str) -> None:
    row = rbr_row("Hard Refuse", {})
    assert len(read("rbr", rbr_folder(tmp_path, row, row | changes), tmp_path)) == 4
    assert [(one["line"], one["field"]) for one in rejected(tmp_path)] == [(2, field)]


@pytest.mark.parametrize("sheet", [None, "a: [", "a: 1", "[]"])
def test_a_broken_rbr_sheet_is_one_line(tmp_path: Path, sheet: str | None) -> None:
    folder = rbr_folder(tmp_path, rbr_row("Comply", {}))
    (folder / "proposition_prompts.yaml").unlink()
    if sheet is not None:
        (folder / "proposition_prompts.yaml").write_text(sheet)
    with pytest.raises(DataError, match=r"proposition_prompts\.yaml:1: [^\n]*$"):
        read("rbr", folder, tmp_path)


@pytest.mark.parametrize("format", ["llmfao", "pandalm", "oasst", "truthfulqa_judge", "rbr"])
def test_an_export_that_is_not_there_is_one_line(tmp_path: Path, format: FeedbackFormat) -> None:
    with pytest.raises(DataError, match=r":1: [^\n]*[Nn]o such file"):
        read(format, tmp_path, tmp_path)


def stored() -> Iterator[Record]:
    """Eight rankings of our own schema."""
    for i in range(8):
        completions: list[list[Message]] = [assistant("a"), assistant("b")]
        yield {
            "feedback_id": f"f{i}",
            "kind": "ranking",
            "prompt_id": f"p{i}",
            "prompt": user(f"Hi {i}"),
            "completions": completions,
            "completion_ids": ["a", "b"],
            "criterion": "overall",
            "annotator_id": "ann",
            "annotator_kind": "human",
            "guideline_version": "1",
            "created_at": "2026-01-31T12:00:00Z",
            "source": "ours",
            "gold": False,
            "ranks": [1, 2],
        }


def test_records_of_our_own_schema_are_read_back_from_jsonl_and_parquet(tmp_path: Path) -> None:
    from_jsonl = read("records", jsonl(tmp_path / "x.jsonl", *stored()), tmp_path)
    write_table(tmp_path / "x.parquet", from_jsonl, FEEDBACK["ranking"])
    assert read("records", tmp_path / "x.parquet", tmp_path) == from_jsonl
    assert len(from_jsonl) == 8


def test_rows_are_spread_evenly_over_the_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", *stored())
    taken = read("records", path, tmp_path, rows=4)
    assert [one["feedback_id"] for one in taken] == ["f0", "f2", "f4", "f6"]
    assert len(read("records", path, tmp_path, rows=100)) == 8


def test_a_record_with_several_faults_is_one_rejected_row(tmp_path: Path) -> None:
    first, *others = stored()
    path = jsonl(tmp_path / "x.jsonl", first | {"ranks": [1, None], "gold": None}, *others)
    assert len(read("records", path, tmp_path)) == 7
    assert [one["field"] for one in rejected(tmp_path)] == ["gold", "ranks[1]"]


def test_rows_of_answers_judged_alone_keep_those_that_differ_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Q: {question}?\nA: {answer}.\nTrue:", "completion": f" {label}"}
        for question in "abcdefgh"
        for answer, label in enumerate(["yes", "yes", "yes", "no" if question < "e" else "yes"])
    ]
    taken = read("truthfulqa_judge", jsonl(tmp_path / "x.jsonl", *rows), tmp_path, rows=8)
    values: dict[str, set[float]] = {}
    for one in taken:
        values.setdefault(one["prompt_id"], set()).add(one["answers"][0]["value"])
    assert len(taken) == 8 and all(value == {0.0, 1.0} for value in values.values())


@needs_shared
@pytest.mark.parametrize(
    ("format", "name", "kind", "count", "prompts"),
    [
        ("llmfao", "llmfao", "comparison", 8931, 13),
        ("pandalm", "pandalm", "comparison", 993 * 3, 170),
        ("oasst", "oasst", "ranking", 145, 145),
        ("rbr", "rbr", "rule", 5703, 350),
    ],
)
def test_real_feedback_is_read(
    tmp_path: Path, format: FeedbackFormat, name: str, kind: str, count: int, prompts: int
) -> None:
    records = read(format, SHARED / name, tmp_path)
    assert len(records) == count and {one["kind"] for one in records} == {kind}
    assert len({one["prompt_id"] for one in records}) == prompts
    bad = len(rejected(tmp_path)) if (tmp_path / "rejected.jsonl").exists() else 0
    assert bad == (6 if format == "pandalm" else 0)
