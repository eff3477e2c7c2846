"""Instructions and prompts out of every format."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from align.data.errors import DataError, UserError
from align.data.exchanges import Instruction, Reading
from align.data.instruction_config import InstructionFormat, InstructionSource
from align.data.instructions import instructions_of, prompts_of
from align.data.messages import (
    Message,
    assistant,
    cluster_id_of,
    prompt_id_of,
    user,
)
from align.data.rejects import Rejects
from align.data.source_rows import CHUNK

SHARED = Path(__file__).parents[2] / "shared" / "data" / "instructions"
REAL = [
    ("self-instruct/seed_tasks.jsonl", 175),
    ("self-instruct/user_oriented_instructions.jsonl", 252),
    ("belle/zh_seed_tasks.json", 175),
]


def source(path: Path, format: InstructionFormat, *rows: object) -> InstructionSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return InstructionSource(format=format, path=path)


def rows_of(*sources: InstructionSource, folder: Path) -> list[Instruction]:
    rejects = Rejects(folder / "rejected.jsonl")
    rows = [one for source in sources for one in instructions_of(source, rejects, Reading())]
    rejects.finish()
    return rows


def instructions(*sources: InstructionSource, folder: Path) -> list[dict[str, list[Message]]]:
    return [
        {"prompt": one.prompt, "completion": one.completion or []}
        for one in rows_of(*sources, folder=folder)
    ]


def prompts(*sources: InstructionSource, folder: Path) -> list[list[Message]]:
    rejects = Rejects(folder / "rejected.jsonl")
    found = [one.prompt for source in sources for one in prompts_of(source, rejects)]
    rejects.finish()
    return found


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("messages", {"messages": [*user("Hi\n\nyou"), *assistant("Ho")]}),
        ("prompt_completion", {"prompt": "Hi\n\nyou", "completion": "Ho"}),
        ("prompt_completion", {"prompt": user("Hi\n\nyou"), "completion": assistant("Ho")}),
        ("alpaca", {"instruction": "Hi", "input": "you", "output": "Ho"}),
        ("alpaca", {"instruction": "Hi\n\nyou", "input": "", "output": "Ho"}),
        ("self_instruct", {"instruction": "Hi", "instances": [{"input": "you", "output": "Ho"}]}),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": "Hi\n\nyou"},
                    {"from": "gpt", "value": "Ho"},
                ]
            },
        ),
    ],
)
def test_every_format_gives_the_same_example(
    tmp_path: Path, format: InstructionFormat, row: object
) -> None:
    data = source(tmp_path / "x.jsonl", format, row)
    expected = {"prompt": user("Hi\n\nyou"), "completion": assistant("Ho")}
    assert instructions(data, folder=tmp_path) == [expected]
    assert prompts(data, folder=tmp_path) == [user("Hi\n\nyou")]


def test_every_assistant_turn_is_learnt_once_and_the_last_prompt_is_answered(
    tmp_path: Path,
) -> None:
    turns = [*user("1"), *assistant("2"), *user("3"), *assistant("4")]
    data = source(tmp_path / "x.jsonl", "messages", {"messages": turns})
    assert instructions(data, folder=tmp_path) == [
        {"prompt": turns[:1], "completion": turns[1:2]},
        {"prompt": turns[:3], "completion": turns[3:]},
    ]
    assert prompts(data, folder=tmp_path) == [turns[:3]]


def test_prompts_need_no_answers(tmp_path: Path) -> None:
    data = [
        source(tmp_path / "a.jsonl", "messages", {"messages": user("a")}),
        source(tmp_path / "b.jsonl", "prompt_completion", {"prompt": "b"}),
        source(tmp_path / "c.jsonl", "alpaca", {"instruction": "c"}),
    ]
    assert prompts(*data, folder=tmp_path) == list(map(user, "abc"))
    with pytest.raises(DataError, match=r"a\.jsonl:1: completion: there is no answer to learn"):
        instructions(*data, folder=tmp_path)


def test_prompt_ids_name_the_text_and_not_the_order_of_keys() -> None:
    assert prompt_id_of([{"content": "a", "role": "user"}]) == prompt_id_of(user("a"))
    assert prompt_id_of(user("a")) != prompt_id_of(user("A"))
    assert prompt_id_of(user("a")) != prompt_id_of([{"role": "system", "content": "a"}])


def test_a_wrong_column_is_one_line_with_the_columns_found(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("question,output\nHi,Ho\n")
    data = InstructionSource(format="alpaca", path=path)
    with pytest.raises(DataError) as error:
        instructions(data, folder=tmp_path)
    assert str(error.value) == (
        f"{path}:2: instruction: there is no such column; found question, output "
        "(no good row is left)"
    )


@pytest.mark.parametrize(
    ("format", "row", "reason"),
    [
        ("messages", {"messages": "Hi"}, "expected a list of messages"),
        ("messages", {"messages": [{"role": "user"}]}, "must have role and content"),
        ("messages", {"messages": [{"role": "bot", "content": ""}]}, 'has role "bot"'),
        ("messages", {"messages": assistant("Hi")}, "expected a list of messages"),
        ("messages", {"messages": [*user("a"), *assistant(" ")]}, "the answer is empty"),
        ("prompt_completion", {"prompt": " ", "completion": "a"}, "the prompt is empty"),
        ("prompt_completion", {"prompt": "a", "completion": 3}, "expected a list of messages"),
        (
            "prompt_completion",
            {"prompt": "a", "completion": [*assistant("b"), *user("c"), *assistant("d")]},
            "an answer is one assistant turn, found roles assistant, user, assistant",
        ),
        ("alpaca", {"instruction": 3, "output": "a"}, "must be text, found 3"),
        ("self_instruct", {"instruction": "a", "instances": []}, "must be a list of inputs"),
        ("self_instruct", {"instruction": "a", "instances": ["b"]}, "must have input and output"),
        ("sharegpt", {"conversations": "a"}, "must be a list of turns"),
        ("sharegpt", {"conversations": [{"from": "x", "value": "a"}]}, '"x" speaks'),
        ("text", {"text": " "}, "the answer is empty"),
    ],
)
def test_a_bad_row_is_set_aside_and_never_stops_a_good_file(
    tmp_path: Path, format: InstructionFormat, row: object, reason: str
) -> None:
    good = {
        "messages": [*user("a"), *assistant("b")],
        "prompt": "a",
        "completion": "b",
        "instruction": "a",
        "output": "b",
        "instances": [{"input": "", "output": "b"}],
        "conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}],
        "text": "a",
    }
    data = source(tmp_path / "x.jsonl", format, good, row, good)
    assert len(instructions(data, folder=tmp_path)) == 2
    rejected = json.loads((tmp_path / "rejected.jsonl").read_text())
    assert rejected["line"] == 2 and reason in rejected["reason"]


def test_the_first_rows_are_taken(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(5)]
    data = source(tmp_path / "x.jsonl", "prompt_completion", *rows).model_copy(update={"rows": 2})
    assert [row["completion"] for row in instructions(data, folder=tmp_path)] == [
        assistant("c0"),
        assistant("c1"),
    ]


def test_the_demo_generates_its_rows(tmp_path: Path) -> None:
    demo = InstructionSource(format="demo", rows=5)
    assert len(instructions(demo, folder=tmp_path)) == 5
    held_out = prompts_of(demo, Rejects(None), seed=1, split="heldout")
    asked = prompts_of(demo, Rejects(None), seed=1)
    assert len({prompt_id_of(row.prompt) for row in [*asked, *held_out]}) == 10
    with pytest.raises(UserError, match="the demo has"):
        prompts(InstructionSource(format="demo", rows=10**9), folder=tmp_path)


def test_every_row_says_where_it_came_from(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "c", "completion": "d", "task_id": "t", "license": "MIT"},
    ]
    data = source(tmp_path / "x.jsonl", "prompt_completion", *rows)
    first, second = rows_of(data, folder=tmp_path)
    assert (first.source, first.task_id, first.license) == ("x", "x", "unknown")
    assert (second.task_id, second.license, second.template_id) == ("t", "MIT", "prompt_completion")
    said = data.model_copy(update={"name": "mine", "task": "chat", "license": "CC0-1.0"})
    first, second = rows_of(said, folder=tmp_path)
    assert (first.source, first.task_id, first.license) == ("mine", "chat", "CC0-1.0")
    assert (second.task_id, second.license) == ("t", "MIT")


def test_a_system_prompt_goes_before_conversations_that_have_none(tmp_path: Path) -> None:
    own: Message = {"role": "system", "content": "own"}
    rows = [{"prompt": user("a"), "completion": "b"}, {"prompt": [own, *user("c")]}]
    data = source(tmp_path / "x.jsonl", "prompt_completion", *rows)
    given = data.model_copy(update={"system": "Be kind."})
    first, second = prompts(given, folder=tmp_path)
    assert first == [{"role": "system", "content": "Be kind."}, *user("a")]
    assert second == [own, *user("c")]


def test_all_turns_of_a_conversation_are_in_one_split(tmp_path: Path) -> None:
    turns = [*user("1"), *assistant("2"), *user("3"), *assistant("4")]
    data = source(tmp_path / "x.jsonl", "messages", {"messages": turns})
    first, second = rows_of(data, folder=tmp_path)
    assert first.group == second.group == cluster_id_of(user("1"))


@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n---\n"])
def test_a_text_file_is_documents_between_separators(tmp_path: Path, separator: str) -> None:
    long = "长" * (CHUNK - 3)  # the separator lies across the border of what is read at once
    path = tmp_path / "x.txt"
    path.write_text(f"one\nline{separator}{long}{separator} {separator}last\n", encoding="utf-8")
    data = InstructionSource(format="text", path=path, separator=separator)
    rows = rows_of(data, folder=tmp_path)
    assert [row.completion for row in rows] == [
        assistant("one\nline"),
        assistant(long),
        assistant("last"),
    ]
    assert all(row.prompt == [] for row in rows) and len({row.group for row in rows}) == 3


def test_folders_that_datasets_saved_are_read(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"prompt": ["a", "b", "c"], "completion": ["1", "2", "3"]})
    rows.select([2, 0]).save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "more")

    def read(name: str, split: str) -> list[str]:
        data = InstructionSource(format="prompt_completion", path=tmp_path / name, split=split)
        return [row.prompt[0]["content"] for row in rows_of(data, folder=tmp_path)]

    assert read("one", "train") == ["c", "a"]
    assert read("more", "train") == ["a", "b", "c"]
    assert read("more", "test") == ["b"]
    with pytest.raises(DataError, match="has no split 'dev', only train, test"):
        read("more", "dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="was not saved by `datasets`"):
        read("empty", "train")


def test_a_hub_id_is_what_datasets_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # `datasets` takes a folder of that name before it asks a hub
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    row = {"prompt": "a", "completion": "b"}
    (tmp_path / "owner" / "name" / "data.jsonl").write_text(json.dumps(row) + "\n")
    data = InstructionSource(format="prompt_completion", hub="owner/name")
    (read,) = rows_of(data, folder=tmp_path)
    assert (read.prompt, read.source) == (user("a"), "owner-name")
    missing = InstructionSource(format="alpaca", hub=str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be loaded") as error:
        rows_of(missing, folder=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the real instructions in ../shared")
@pytest.mark.parametrize(("name", "count"), REAL)
def test_real_seed_tasks_are_read_without_a_bad_row(tmp_path: Path, name: str, count: int) -> None:
    data = InstructionSource(format="self_instruct", path=SHARED / name)
    assert len(instructions(data, folder=tmp_path)) == count
    assert len(prompts(data, folder=tmp_path)) == count
    assert not (tmp_path / "rejected.jsonl").exists()


def test_messages_as_openai_writes_them_are_read_by_role_and_content(tmp_path: Path) -> None:
    """Empty keys and names are ignored, and turns of weight 0 are read and not learnt."""
    empty = {"tool_calls": None, "function_call": None, "refusal": None}
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "s", "name": "x"},
        {"role": "user", "content": "q", **empty},
        {"role": "assistant", "content": "no", "weight": 0, **empty},
        {"role": "user", "content": "again", "name": "Ann"},
        {"role": "assistant", "content": "yes", "weight": 1, "tool_calls": []},
    ]
    plain = [{"role": one["role"], "content": one["content"]} for one in turns]
    data = source(tmp_path / "x.jsonl", "messages", {"messages": turns})
    assert instructions(data, folder=tmp_path) == [{"prompt": plain[:4], "completion": plain[4:]}]
    row = {"prompt": turns[:4], "completion": turns[4:]}
    data = source(tmp_path / "y.jsonl", "prompt_completion", row)
    assert instructions(data, folder=tmp_path) == [{"prompt": plain[:4], "completion": plain[4:]}]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tool_calls": [{"id": "1"}], "content": None}, r"message 1 calls tools \(tool_calls\)"),
        ({"function_call": {"name": "f"}}, r"message 1 calls tools \(function_call\)"),
        ({"weight": 0}, "every assistant turn has weight 0"),
        ({"weight": 0.5}, "message 1 has weight 0.5, not 0 or 1"),
        ({"reasoning_content": "because"}, "message 1 must have role and content"),
    ],
)
def test_what_a_message_says_beside_its_content_is_not_dropped_in_silence(
    tmp_path: Path, more: dict[str, object], reason: str
) -> None:
    turns = [*user("q"), {"role": "assistant", "content": "a", **more}]
    data = source(tmp_path / "x.jsonl", "messages", {"messages": turns})
    with pytest.raises(DataError, match=reason):
        instructions(data, folder=tmp_path)
