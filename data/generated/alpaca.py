"""Alpaca: Self-Instruct in one step: twenty instructions a call, each with its one instance.

Taori et al. 2023 (Stanford Alpaca). There is no branch for classifications. The wording is ours.
"""

import re
from collections.abc import Iterator, Sequence
from random import Random

from align.data.generated.pool import Pool
from align.data.generated.sampling import Generate, Sampling
from align.data.generated.self_instruct import IDLE, Made

A_CALL = 20
SHOTS = 3
WRITTEN = Sampling(max_tokens=3072, stop=(f"\n{A_CALL + 1}.",))
BLOCK = re.compile(r"^\d+\. Instruction:", re.MULTILINE)
PART = re.compile(r"^(Input|Output):[ \t]*", re.MULTILINE)


def alpaca(
    seeds: Sequence[Made], generate: Generate, rows: int, seed: int, pool: Pool
) -> Iterator[Made]:
    """Up to `rows` new instances; fewer if the model repeats itself."""
    chance = Random(seed)
    idle = written = 0
    while written < rows and idle < IDLE:
        shots = chance.sample(list(seeds), min(SHOTS, len(seeds)))
        (said,) = generate([prompt(shots)], WRITTEN)
        blocks = parsed(f"{len(shots) + 1}. Instruction:{said.text}", said.finished, pool)
        before = written
        for one in blocks:
            if (
                written < rows
                and pool.accepts(one.instruction)
                and pool.accepts_instance(one.instruction, one.input, one.output)
            ):
                written += 1
                yield one
        idle = 0 if written > before else idle + 1


def prompt(shots: Sequence[Made]) -> str:
    """What is wanted, and the first blocks of the list."""
    blocks = [
        f"{place}. Instruction: {one.instruction}\nInput: {one.input or '<none>'}\n"
        f"Output: {one.output}"
        for place, one in enumerate(shots, start=1)
    ]
    wanted = (
        f"A list of {A_CALL} different tasks for an assistant that reads and writes text. Each has "
        "an instruction of one or two sentences, an input where it needs one, and the output."
    )
    return "\n".join([wanted, "", *blocks, f"{len(shots) + 1}. Instruction:"])


def parsed(text: str, finished: bool, pool: Pool) -> list[Made]:
    """The blocks of a list; the last one is left out if it was cut, malformed ones are counted."""
    blocks = BLOCK.split(text)[1:]
    if not finished:
        blocks = blocks[:-1]
    found = []
    for block in blocks:
        instruction, *parts = PART.split(block)
        if parts[::2] != ["Input", "Output"]:
            pool.rejected["a block needs one input and one output"] += 1
            continue
        given, output = (part.strip() for part in parts[1::2])
        found.append(Made(instruction.strip(), "" if given == "<none>" else given, output))
    return found
