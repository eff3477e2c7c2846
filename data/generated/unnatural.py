"""Unnatural Instructions: a fourth example after three, its output in a second step, rephrased.

Honovich et al. 2022 (arXiv:2212.09689): instruction, input and constraints are sampled, the output
is the likeliest one; then instructions are said in other words. The wording is ours.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from align.data.generated.pool import Pool
from align.data.generated.sampling import Generate, Sampling
from align.data.generated.self_instruct import IDLE, Made

SHOTS = 3
WRITTEN = Sampling(max_tokens=512, top_p=0.99, stop=("Example 5",))
ANSWERED = Sampling(max_tokens=512, do_sample=False)
REPHRASED = Sampling(max_tokens=128, stop=("\n",))
FIELDS = ("Instruction", "Input", "Constraints")
PART = re.compile(rf"^({'|'.join(FIELDS)}):[ \t]*", re.MULTILINE)


def unnatural(
    seeds: Sequence[Made], generate: Generate, rows: int, seed: int, pool: Pool
) -> Iterator[Made]:
    """Up to `rows` instances, half of them rephrased; fewer if the model repeats itself."""
    chance = Random(seed)
    idle = written = 0
    while written < rows and idle < IDLE:
        shots = chance.sample(list(seeds), min(SHOTS, len(seeds)))
        (said,) = generate([example_prompt(shots)], WRITTEN)
        task = fields(f"Instruction: {said.text.lstrip()}", pool)
        if task is None or not pool.accepts(task["Instruction"]):
            idle += 1
            continue
        idle = 0
        (answer,) = generate([output_prompt(task)], ANSWERED)
        if not pool.accepts_instance(task["Instruction"], task["Input"], answer.text):
            continue
        made = Made(task["Instruction"], task["Input"], answer.text.strip())
        for one in (made, *_rephrased(made, generate, pool)):
            if written < rows:
                written += 1
                yield one


def example_prompt(shots: Sequence[Made]) -> str:
    """Three examples, and the beginning of the fourth."""
    examples = [
        f"Example {place}\nInstruction: {one.instruction}\nInput: {one.input or 'none'}\n"
        "Constraints: none"
        for place, one in enumerate(shots, start=1)
    ]
    return "\n\n".join([*examples, f"Example {len(shots) + 1}\nInstruction:"])


def output_prompt(task: dict[str, str]) -> str:
    """What is asked in the second step."""
    lines = [f"Instruction: {task['Instruction']}", f"Input: {task['Input'] or 'none'}"]
    lines.append(f"Constraints: {task['Constraints'] or 'none'}")
    return "\n".join([*lines, "Output:"])


def fields(text: str, pool: Pool) -> dict[str, str] | None:
    """The three fields of an example; None if one is missing or stands twice, which is counted."""
    parts = PART.split(text)
    names = parts[1::2]
    if sorted(names) != sorted(FIELDS):
        missing = [name for name in FIELDS if name not in names]
        reason = f"{missing[0]} is missing" if missing else "a field stands twice"
        pool.rejected[reason] += 1
        return None
    found = dict(zip(names, map(str.strip, parts[2::2]), strict=True))
    return {name: "" if text.lower() == "none" else text for name, text in found.items()}


def _rephrased(made: Made, generate: Generate, pool: Pool) -> Iterator[Made]:
    """The same instance asked for in other words, where the model finds some."""
    prompt = f"Say this instruction in other words.\n\n{made.instruction}\n\nIn other words:"
    (said,) = generate([prompt], REPHRASED)
    other = said.text.strip()
    if (
        other
        and other != made.instruction
        and pool.accepts_instance(other, made.input, made.output)
    ):
        yield replace(made, instruction=other)
