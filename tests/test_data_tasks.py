"""Instances, natural-instructions fields, demonstrations and human-written prompts."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.data.chance import pick, unit
from align.data.errors import DataError
from align.data.exchanges import Instruction, Reading
from align.data.instruction_config import Demonstrations, InstructionSource, NaturalFields, People
from align.data.instructions import instructions_of, prompts_of
from align.data.rejects import Rejects
from align.data.splits import split_of
from align.data.tasks.demonstrations import choose, fitting, shots
from align.data.tasks.instances import Demonstration, Instance, from_messages, to_messages
from align.data.tasks.natural import described, read_task

PLAIN = Reading()
PIECES = [
    "a",
    "{b}",
    "{{ c }}",
    "\n",
    "\n\n",
    "### Input",
    "### Output",
    "\\",
    "床前明月光",
    " ",
    "",
]


def random_text(chance: random.Random) -> str:
    return "".join(chance.choices(PIECES, k=chance.randrange(8)))


def random_instance(chance: random.Random) -> Instance:
    pairs = tuple(
        Demonstration(random_text(chance), random_text(chance)) for _ in range(chance.randrange(4))
    )
    return Instance(random_text(chance), random_text(chance), random_text(chance), pairs)


def read(source: InstructionSource, folder: Path, reading: Reading = PLAIN) -> list[Instruction]:
    rejects = Rejects(folder / "rejected.jsonl")
    rows = list(instructions_of(source, rejects, reading))
    rejects.finish()
    return rows


def test_two_hundred_instances_are_read_back_as_they_were() -> None:
    chance = random.Random(0)
    for _ in range(200):
        instance = random_instance(chance)
        prompt, completion = to_messages(instance, system="Be kind.")
        assert from_messages(prompt, completion) == instance
        assert prompt == to_messages(instance, system="Be kind.")[0]


def test_an_instance_is_written_as_the_module_says() -> None:
    case = Instance("Add.", "2+2", "4", (Demonstration("1+1", "2"),))
    prompt, completion = to_messages(case)
    assert prompt[0]["content"] == ("Add.\n\n### Input\n1+1\n\n### Output\n2\n\n### Input\n2+2")
    assert completion[0]["content"] == "4"
    assert to_messages(Instance("Say hi.", "", "hi"))[0][0]["content"] == "Say hi."
    assert to_messages(replace(case, demonstrations=()), described=False)[0][0]["content"] == (
        "### Input\n2+2"
    )


def test_the_answer_is_not_in_the_prompt_and_the_description_only_there() -> None:
    case = Instance("Translate.", "月光", "moonlight-42", (Demonstration("水", "water"),))
    prompt, completion = to_messages(case)
    assert "moonlight-42" not in prompt[0]["content"]
    other_prompt, other_completion = to_messages(replace(case, description="Render in English."))
    assert other_prompt != prompt and other_completion == completion


TASK: dict[str, Any] = {
    "Title": "Find the verb",
    "Definition": "Write the verb of the sentence.",
    "Emphasis & Caution": "One word only.",
    "Things to Avoid": "Nouns.",
    "Prompt": "Which word is the verb?",
    "Examples": {
        "Positive Examples": [{"input": "I run.", "output": "run", "reason": "It is an act."}],
        "Negative Examples": [
            {"input": "I sit.", "output": "I", "reason": "A pronoun.", "suggestion": "Say sit."}
        ],
    },
    "Instances": [{"input": f"I do {i}.", "output": [f"do-{i}", "do"]} for i in range(30)],
}
PARAGRAPHS = {
    "title": "Title: Find the verb",
    "definition": "Definition: Write the verb of the sentence.",
    "caution": "Emphasis and caution: One word only.",
    "things_to_avoid": "Things to avoid: Nouns.",
    "prompt": "Prompt: Which word is the verb?",
}


def natural(folder: Path, name: str = "task1.json", task: object = TASK) -> Path:
    path = folder / name
    path.write_text(json.dumps(task, indent=1))
    return path


@pytest.mark.parametrize("field", PARAGRAPHS)
def test_a_field_of_a_natural_task_changes_its_own_paragraph_only(
    tmp_path: Path, field: str
) -> None:
    task = read_task(natural(tmp_path))
    everything = NaturalFields(**dict.fromkeys(PARAGRAPHS, True))
    assert described(task, everything).split("\n\n") == list(PARAGRAPHS.values())
    without = everything.model_copy(update={field: False})
    left = [text for name, text in PARAGRAPHS.items() if name != field]
    assert described(task, without).split("\n\n") == left


def test_examples_of_a_natural_task_with_reasons_and_suggestions(tmp_path: Path) -> None:
    task = read_task(natural(tmp_path))
    bare = NaturalFields(definition=False, positive_examples=2, negative_examples=1)
    good = "Positive example 1:\nInput: I run.\nOutput: run"
    bad = "Negative example 1:\nInput: I sit.\nOutput: I"
    assert described(task, bare) == f"{good}\n\n{bad}"
    reasons = bare.model_copy(update={"reasons": True})
    assert described(task, reasons) == (
        f"{good}\nReason: It is an act.\n\n{bad}\nReason: A pronoun."
    )
    full = reasons.model_copy(update={"suggestions": True})
    assert described(task, full) == f"{described(task, reasons)}\nSuggestion: Say sit."


def test_the_newer_form_of_a_natural_task_is_the_same_task(tmp_path: Path) -> None:
    newer = {
        "Definition": ["Write the verb of the sentence."],
        "Positive Examples": [{"input": "I run.", "output": "run", "explanation": "It is an act."}],
        "Negative Examples": [],
        "Instances": TASK["Instances"],
        "Instance License": ["MIT"],
    }
    task = read_task(natural(tmp_path, task=newer))
    assert task.definition == TASK["Definition"] and task.license == "MIT"
    assert task.positive == read_task(natural(tmp_path)).positive


def test_a_folder_of_natural_tasks_gives_rows_that_name_their_task(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    natural(folder, "a.json")
    natural(folder, "b.json", TASK | {"Instances": [{"input": "x"}, *TASK["Instances"]]})
    source = InstructionSource(format="natural_instructions", path=folder)
    rows = read(source, tmp_path)
    assert Counter(row.task_id for row in rows) == {"a": 30, "b": 30}
    assert rows[0].completion == [{"role": "assistant", "content": "do-0"}]
    rejected = json.loads((tmp_path / "rejected.jsonl").read_text())
    assert (rejected["file"], rejected["line"]) == (str(folder / "b.json"), 1)


def test_a_file_that_is_no_natural_task_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it needs a list `Instances`"):
        read_task(natural(tmp_path, task={"Definition": "x"}))


def test_hashed_choices_are_uniform_and_depend_on_the_key_alone() -> None:
    draws = Counter(pick(5, "seed", i) for i in range(5000))
    expected = 1000
    assert sum((n - expected) ** 2 / expected for n in draws.values()) < 18.5  # chi2, 4 df, 0.1 %
    assert unit("a", "b") != unit("ab") and 0 <= unit(1) < 1


def test_the_number_of_demonstrations_follows_the_config() -> None:
    counts = Counter(shots(0.5, 2, "seed", i) for i in range(4000))
    assert set(counts) == {0, 1, 2}
    for shown, share in ((0, 0.5), (1, 0.25), (2, 0.25)):
        assert abs(counts[shown] - 4000 * share) < 3 * (4000 * share * (1 - share)) ** 0.5


def test_demonstrations_are_of_the_task_of_training_rows_and_never_the_row_itself(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    natural(folder, "a.json")
    other = [{"input": f"You go {i}.", "output": f"go-{i}"} for i in range(30)]
    natural(folder, "b.json", TASK | {"Instances": other})
    source = InstructionSource(
        format="natural_instructions", path=folder, demonstrations=Demonstrations(share=1, most=3)
    )
    rows = read(source, tmp_path, Reading(seed=1, split=lambda group: split_of(group, 0.3)))
    plain = read(source.model_copy(update={"demonstrations": None}), tmp_path)
    tested = {
        row.instance.input for row in plain if row.instance and split_of(row.group, 0.3) == "test"
    }
    assert 5 < len(tested) < 40
    shown = [one for row in rows if row.instance for one in row.instance.demonstrations]
    assert len(shown) > 60 and not {one.input for one in shown} & tested
    for row in rows:
        assert row.instance is not None and row.instance.demonstrations
        mine = "do-" if row.task_id == "a" else "go-"
        assert all(one.output.startswith(mine) for one in row.instance.demonstrations)
        assert row.instance.input not in {one.input for one in row.instance.demonstrations}
        assert row.group in {other.group for other in plain}, "the split is that of the bare prompt"


def test_demonstrations_that_do_not_fit_are_dropped_and_the_query_stays_whole(
    tmp_path: Path,
) -> None:
    long = Instance("Add.", "q" * 50, "a", tuple(Demonstration("x" * 40, "y") for _ in range(5)))

    def size(one: Instance) -> int:
        return len(to_messages(one)[0][0]["content"])

    fitted = fitting(long, 200, size)
    assert len(fitted.demonstrations) == 2 and size(fitted) <= 200
    assert fitting(long, 10, size) == replace(long, demonstrations=())
    source = InstructionSource(
        format="natural_instructions",
        path=natural(tmp_path),
        demonstrations=Demonstrations(share=1, most=2),
    )
    tight = Reading(prompt_tokens=lambda prompt: len(prompt[-1]["content"]), max_prompt_length=90)
    for row in read(source, tmp_path, tight):
        text = row.prompt[-1]["content"]
        assert text.startswith("Definition: Write the verb") and "I do" in text


def test_the_same_demonstrations_are_chosen_whatever_the_order_of_the_pool() -> None:
    pool = [Demonstration(f"{i}", f"{i}") for i in range(20)]
    case = Instance("", "7", "7")
    chosen = choose(pool, case, 5, "key")
    assert chosen == choose(pool[::-1], case, 5, "key") != choose(pool, case, 5, "other")
    assert Demonstration("7", "7") not in choose(pool, case, 100, "key")


def human(author: str, text: str, writer: str = "labeler") -> dict[str, str]:
    return {"prompt": text, "completion": "ok", "user_id": author, "labeler_id": writer}


def people(folder: Path, rows: list[dict[str, str]], **options: Any) -> InstructionSource:
    path = folder / "human.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return InstructionSource(format="prompt_completion", path=path, people=People(**options))


def test_a_person_gives_at_most_so_many_prompts(tmp_path: Path) -> None:
    rows = [human(f"u{i % 3}", f"{i} prompt") for i in range(60)]
    taken = read(people(tmp_path, rows, max_prompts=7), tmp_path)
    assert Counter(row.group for row in taken) == {f"author u{i}": 7 for i in range(3)}


def test_prompts_with_one_long_beginning_are_taken_once(tmp_path: Path) -> None:
    same = "Summarise this text for me, please: "
    rows = [human("a", f"{same}{i}") for i in range(5)] + [human("b", "Sum up.")]
    taken = read(people(tmp_path, rows, shared_prefix=30), tmp_path)
    assert [row.prompt[0]["content"] for row in taken] == [f"{same}0", "Sum up."]


def test_nobody_answers_an_own_prompt(tmp_path: Path) -> None:
    rows = [human("a", "one"), human("b", "two", writer="b"), human("a", "three", writer="")]
    source = people(tmp_path, rows)
    with pytest.raises(DataError, match="labeler_id: b answered an own prompt"):
        read(source, tmp_path)


def test_who_wrote_an_answer_is_known_or_openly_not_asked(tmp_path: Path) -> None:
    rows = [{"prompt": "one", "completion": "ok", "user_id": "a"}]
    with pytest.raises(DataError, match=r"labeler_id: no such column: name another as people\."):
        read(people(tmp_path, rows), tmp_path)
    assert len(read(people(tmp_path, rows, answer_author=None), tmp_path)) == 1
    del rows[0]["completion"]
    (asked,) = prompts_of(people(tmp_path, rows), Rejects(None))
    assert asked.group == "author a"


def test_a_person_never_straddles_the_splits_after_an_append(tmp_path: Path) -> None:
    rows = [human(f"u{i % 40}", f"{i} prompt") for i in range(200)]
    before = read(people(tmp_path, rows), tmp_path)
    more = [*rows, *(human(f"u{i % 50}", f"{i} new") for i in range(200))]
    after = read(people(tmp_path, more), tmp_path)
    assert len(after) == 400
    split = {row.prompt[0]["content"]: split_of(row.group, 0.3) for row in after}
    assert all(split[row.prompt[0]["content"]] == split_of(row.group, 0.3) for row in before)
    splits = {
        author: {split_of(row.group, 0.3) for row in after if row.group == author}
        for author in {row.group for row in after}
    }
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "test"} == set.union(*splits.values())
