"""Instructions that a scripted model writes: Self-Instruct, Unnatural Instructions, Alpaca."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from align.data.errors import UserError
from align.data.generated.alpaca import alpaca, parsed
from align.data.generated.alpaca import prompt as alpaca_prompt
from align.data.generated.pool import Pool
from align.data.generated.sampling import Sampling, Written
from align.data.generated.self_instruct import (
    Made,
    instances,
    instruction_prompt,
    proposals,
    self_instruct,
)
from align.data.generated.unnatural import fields, unnatural
from align.pipeline.data_generate import generate, read_seeds

SEEDS = [
    Made("Write a short poem about the given season.", "autumn", "Leaves fall."),
    Made("Translate the sentence into French.", "Good day.", "Bonjour."),
    Made("List three uses of an old newspaper.", "", "Fire, hats, wrapping."),
]
NOVEL = [
    "Explain why the sky looks blue at noon.",
    "Suggest a name for a small bakery.",
    "把下面的句子改写成疑问句。",
    "Count the vowels in the word that follows.",
    "Decide whether this sentence is polite.",
]
Reply = Callable[[str, Sampling], str | Written]


class Fake:
    """Replies by a function, and keeps what it was asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.calls: list[tuple[str, Sampling]] = []

    def __call__(self, prompts: Sequence[str], sampling: Sampling) -> list[Written]:
        self.calls += [(prompt, sampling) for prompt in prompts]
        said = [self.reply(prompt, sampling) for prompt in prompts]
        return [one if isinstance(one, Written) else Written(one, True) for one in said]


def numbered(lines: Sequence[str]) -> str:
    return "\n".join([f" {lines[0]}", *(f"{i}. {line}" for i, line in enumerate(lines[1:], 5))])


def pool() -> Pool:
    return Pool(one.instruction for one in SEEDS)


def test_five_new_instructions_join_and_five_copies_do_not() -> None:
    found = pool()
    copies = [SEEDS[0].instruction, SEEDS[1].instruction.upper(), f"{NOVEL[0]} Now.", *NOVEL[1:3]]
    said = proposals(numbered([*NOVEL, *copies]), finished=True)
    assert len(said) == 10
    accepted = [one for one in said if found.accepts(one)]
    assert accepted == NOVEL == found.machine
    assert found.rejected == {"too similar": 5}, "also those that joined in the same round"


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Go now", "too short or too long"),
        ("word " * 151, "too short or too long"),
        ("Describe the picture that is shown here.", "asks for what is no text"),
        ("请描述下面这张图片的内容。", "asks for what is no text"),
    ],
)
def test_what_is_no_task_for_a_model_of_text_does_not_join(instruction: str, reason: str) -> None:
    found = pool()
    assert not found.accepts(instruction) and found.rejected == {reason: 1}


def test_instances_that_say_nothing_or_came_before_are_left_out() -> None:
    found = pool()
    assert found.accepts_instance("Add.", "1+1", "2")
    for given, output in (("1+2", " "), ("same", "SAME"), ("1+1", "3")):
        assert not found.accepts_instance("Add.", given, output)
    assert set(found.rejected) == {
        "the output is empty",
        "the output is the input",
        "the input came before",
    }


def self_instruct_reply(prompt: str, sampling: Sampling) -> str:
    if prompt.startswith("Different tasks"):
        return numbered(NOVEL)
    if prompt.startswith("A classification"):
        return " yes" if "polite" in prompt.split("Task:")[-1] else " no"
    if prompt.startswith("For each class"):
        return "Class: polite\nInput: Please sit.\nClass: rude\nInput: Sit!\n\nTask: next"
    return f"Input: none\nOutput: an answer to {len(prompt)}"


def test_self_instruct_writes_inputs_first_and_for_classes_the_class_first() -> None:
    fake, found = Fake(self_instruct_reply), pool()
    made = list(self_instruct(SEEDS, fake, rows=6, seed=0, pool=found))
    assert [one.instruction for one in made] == [*NOVEL[:4], NOVEL[4], NOVEL[4]]
    assert made[4:] == [Made(NOVEL[4], "Please sit.", "polite"), Made(NOVEL[4], "Sit!", "rude")]
    assert made[0].input == "" and made[0].output.startswith("an answer to")
    again = list(self_instruct(SEEDS, Fake(self_instruct_reply), rows=3, seed=0, pool=pool()))
    assert again == made[:3]


def test_a_model_that_repeats_itself_comes_to_an_end() -> None:
    for method in (self_instruct, unnatural, alpaca):
        fake = Fake(lambda prompt, sampling: "Write a short poem about the given season.")
        assert list(method(SEEDS, fake, 5, 0, pool())) == []
        assert len(fake.calls) == 10


def test_examples_are_six_by_people_and_two_by_the_model() -> None:
    found = Pool(f"human task number {i} of many" for i in range(20))
    found.machine = [f"machine task number {i}" for i in range(9)]
    lines = instruction_prompt(found, Random(0)).splitlines()
    assert sum("human" in line for line in lines) == 6
    assert sum("machine" in line for line in lines) == 2 and lines[-1] == "9."
    found.machine = []
    assert instruction_prompt(found, Random(0)).count("human") == 8


def test_the_last_instruction_of_an_answer_that_was_cut_is_left_out() -> None:
    assert proposals(" One task.\n10. Two tasks.\n11. Thr", finished=False) == [
        "One task.",
        "Two tasks.",
    ]


def test_instances_of_both_orders_are_read() -> None:
    assert instances("Input: a\nb\nOutput: c") == [("a\nb", "c")]
    assert instances("Output: c") == [("", "c")]
    assert instances("Class: x\nInput: a\nClass: y\nInput: b\n\nTask: z\nInput: q") == [
        ("a", "x"),
        ("b", "y"),
    ]
    assert instances("nothing of the kind") == []


def unnatural_reply(prompt: str, sampling: Sampling) -> str:
    if prompt.startswith("Example 1"):
        return f" {NOVEL[len(prompt) % 5]}\nInput: tea\nConstraints: none"
    return f"reply to {prompt[:30]}"


def test_unnatural_instructions_are_sampled_and_their_outputs_are_the_likeliest() -> None:
    fake = Fake(unnatural_reply)
    made = list(unnatural(SEEDS, fake, rows=2, seed=0, pool=pool()))
    first, second = made
    assert first.instruction in NOVEL and (first.input, second.input) == ("tea", "tea")
    assert second.output == first.output and second.instruction.startswith("reply to Say this")
    stages = [(prompt[:9], sampling.do_sample) for prompt, sampling in fake.calls]
    assert ("Example 1", True) in stages and ("Instructi", False) in stages
    assert ("Instructi", True) not in stages and ("Example 1", False) not in stages


def test_malformed_examples_are_counted_by_what_is_wrong() -> None:
    found = pool()
    whole = "Instruction: a\nInput: none\nConstraints: b"
    assert fields(whole, found) == {"Instruction": "a", "Input": "", "Constraints": "b"}
    assert fields("Instruction: a\nInput: b", found) is None
    assert fields("Instruction: a\nConstraints: b", found) is None
    assert fields(f"{whole}\nInput: c", found) is None
    assert found.rejected == {
        "Constraints is missing": 1,
        "Input is missing": 1,
        "a field stands twice": 1,
    }


BLOCKS = (
    f" {NOVEL[0]}\nInput: <none>\nOutput: It scatters.\n"
    f"5. Instruction: {NOVEL[1]}\nInput: it sells rye\nOutput: Rye and Sons\nof York\n"
    f"6. Instruction: {NOVEL[2]}\nOutput: no input line\n"
    f"7. Instruction: {NOVEL[3]}\nInput: banana\nOutput: thr"
)


def test_alpaca_reads_whole_blocks_and_leaves_out_what_was_cut() -> None:
    found = pool()
    text = f"4. Instruction:{BLOCKS}"
    whole = [
        Made(NOVEL[0], "", "It scatters."),
        Made(NOVEL[1], "it sells rye", "Rye and Sons\nof York"),
    ]
    assert parsed(text, False, found) == whole
    assert parsed(text, True, found) == [*whole, Made(NOVEL[3], "banana", "thr")]
    assert found.rejected == {"a block needs one input and one output": 2}
    fake = Fake(lambda prompt, sampling: Written(BLOCKS, False))
    assert list(alpaca(SEEDS, fake, 2, 0, pool())) == whole and len(fake.calls) == 1


def test_the_prompt_of_alpaca_is_as_written() -> None:
    assert alpaca_prompt(SEEDS[1:]) == (
        "A list of 20 different tasks for an assistant that reads and writes text. Each has an "
        "instruction of one or two sentences, an input where it needs one, and the output.\n\n"
        "1. Instruction: Translate the sentence into French.\nInput: Good day.\nOutput: Bonjour.\n"
        "2. Instruction: List three uses of an old newspaper.\nInput: <none>\n"
        "Output: Fire, hats, wrapping.\n3. Instruction:"
    )


def seeds_file(folder: Path) -> Path:
    path = folder / "seeds.jsonl"
    rows = [
        {"instruction": one.instruction, "instances": [{"input": one.input, "output": one.output}]}
        for one in SEEDS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_was_written_is_a_file_of_instructions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, out = seeds_file(tmp_path), tmp_path / "made.jsonl"
    assert read_seeds(seeds) == SEEDS
    generate(seeds, "alpaca", Fake(lambda p, s: Written(BLOCKS, False)), "fake", 2, 0, out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0] == {
        "instruction": NOVEL[0],
        "input": "",
        "output": "It scatters.",
        "task_id": "alpaca",
        "generated_by": "fake",
    }
    assert "1 left out: a block needs one input" in capsys.readouterr().out
    with pytest.raises(UserError, match="fake wrote no instruction that can be used"):
        generate(seeds, "alpaca", Fake(lambda p, s: "?"), "fake", 2, 0, tmp_path / "none.jsonl")


class Failing(Fake):
    """A server that is gone after so many calls."""

    def __init__(self, calls: int) -> None:
        lines = iter(NOVEL)
        super().__init__(lambda p, s: f" {next(lines)}\nInput: <none>\nOutput: Done.")
        self.left = calls

    def __call__(self, prompts: Sequence[str], sampling: Sampling) -> list[Written]:
        self.left -= 1
        if self.left < 0:
            raise UserError("the server is gone")
        return super().__call__(prompts, sampling)


def test_rows_are_kept_when_the_server_fails_and_the_same_command_goes_on(tmp_path: Path) -> None:
    seeds, out = seeds_file(tmp_path), tmp_path / "new" / "made.jsonl"
    with pytest.raises(UserError, match="the server is gone"):
        generate(seeds, "alpaca", Failing(calls=2), "fake", 4, 0, out)
    first = out.read_text()
    assert first.count("\n") == 2
    out.write_text(first + '{"instruction": "Hal')  # the session was killed
    generate(seeds, "alpaca", Failing(calls=9), "fake", 4, 0, out)
    made = [json.loads(line)["instruction"] for line in out.read_text().splitlines()]
    assert out.read_text().startswith(first) and made == NOVEL[:4], "none comes twice"
    again = Failing(calls=0)
    generate(seeds, "alpaca", again, "fake", 4, 0, out)
    with pytest.raises(UserError, match="did not write by alpaca: name another file"):
        generate(seeds, "alpaca", again, "other", 4, 0, out)
