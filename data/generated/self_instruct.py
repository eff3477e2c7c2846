"""Self-Instruct: a model writes instructions, then instances of them, from those that people wrote.

Wang et al. 2022 (arXiv:2212.10560): eight instructions as examples, six by people and two by the
model; is the new one a classification? Then the classes come first and an input for each, else an
input first and its output. The wording of the questions is ours.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from align.data.generated.pool import Pool
from align.data.generated.sampling import Generate, Sampling

HUMAN, MACHINE = 6, 2
"""Examples in a prompt; people's fill in where the model has written too few."""
ASKED = Sampling(max_tokens=1024, temperature=0.7, top_p=0.9, stop=("\n\n",))
SURE = Sampling(max_tokens=8, do_sample=False, stop=("\n",))
ANSWERED = Sampling(max_tokens=512, do_sample=False)
NUMBERED = re.compile(r"^\s*\d+[.)]\s*(.+?)\s*$", re.MULTILINE)
PART = re.compile(r"^(Input|Output|Class):[ \t]*", re.MULTILINE)
IDLE = 10
"""Rounds without a new instruction after which the model has no more to say."""


@dataclass(frozen=True)
class Made:
    """An instance that a model wrote."""

    instruction: str
    input: str
    output: str


def self_instruct(
    seeds: Sequence[Made], generate: Generate, rows: int, seed: int, pool: Pool
) -> Iterator[Made]:
    """Up to `rows` new instances; fewer if the model repeats itself."""
    chance = Random(seed)
    idle = written = 0
    while written < rows and idle < IDLE:
        (said,) = generate([instruction_prompt(pool, chance)], ASKED)
        new = [one for one in proposals(said.text, said.finished) if pool.accepts(one)]
        idle = 0 if new else idle + 1
        kinds = generate([classify_prompt(one) for one in new], SURE) if new else []
        prompts = [
            instance_prompt(seeds, one, kind.text.strip().lower().startswith("yes"))
            for one, kind in zip(new, kinds, strict=True)
        ]
        answers = generate(prompts, ANSWERED) if prompts else []
        for instruction, answer in zip(new, answers, strict=True):
            for given, output in instances(answer.text):
                if written < rows and pool.accepts_instance(instruction, given, output):
                    written += 1
                    yield Made(instruction, given, output)


def instruction_prompt(pool: Pool, chance: Random) -> str:
    """Eight instructions in random order, and the number of the next one."""
    machine = chance.sample(pool.machine, min(MACHINE, len(pool.machine)))
    human = chance.sample(pool.human, min(HUMAN + MACHINE - len(machine), len(pool.human)))
    examples = chance.sample([*human, *machine], len(human) + len(machine))
    lines = [f"{place}. {_line(one)}" for place, one in enumerate(examples, start=1)]
    return "\n".join(["Different tasks for an assistant:", *lines, f"{len(lines) + 1}."])


def proposals(text: str, finished: bool) -> list[str]:
    """The instructions in a numbered list that begins after its first number.

    The last one of an answer that was cut is left out.
    """
    found = NUMBERED.findall(f"0. {text.lstrip()}")
    return found if finished else found[:-1]


def classify_prompt(instruction: str) -> str:
    """Is it a classification? One word."""
    return (
        "A classification has a few fixed answers to choose from.\n\n"
        "Task: Is this review good or bad?\nClassification: yes\n\n"
        "Task: Write a poem about rain.\nClassification: no\n\n"
        f"Task: {_line(instruction)}\nClassification:"
    )


def instance_prompt(seeds: Sequence[Made], instruction: str, classification: bool) -> str:
    """Input first; for classifications each class first, so that no class is forgotten."""
    if classification:
        return (
            "For each class of the task, give the class and then an input that has it.\n\n"
            "Task: Is this review good or bad?\nClass: good\nInput: I would see it again.\n"
            "Class: bad\nInput: I fell asleep.\n\n"
            f"Task: {_line(instruction)}\n"
        )
    shots = "\n\n".join(
        f"Task: {_line(one.instruction)}\nInput: {_line(one.input) or 'none'}\n"
        f"Output: {_line(one.output)}"
        for one in seeds[:3]
    )
    asked = "Give an input for the task and the right output."
    return f"{asked}\n\n{shots}\n\nTask: {_line(instruction)}\n"


def instances(text: str) -> list[tuple[str, str]]:
    """Input and output of each instance; a class is the output of the input behind it."""
    parts = PART.split(text.partition("\n\nTask:")[0])
    found: list[tuple[str, str]] = []
    label = given = ""
    for name, value in zip(parts[1::2], map(str.strip, parts[2::2]), strict=True):
        if name == "Class":
            label = value
        elif name == "Input" and label:
            found.append((value, label))
            label = ""
        elif name == "Input":
            given = "" if value.lower() == "none" else value
        else:
            found.append((given, value))
    return found


def _line(text: str) -> str:
    return " ".join(text.split())
