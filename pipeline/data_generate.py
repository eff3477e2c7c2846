"""`align data generate`: instructions written by a language model, from seeds that people wrote.

Every row is in the file as soon as it is written; the same command goes on with the file.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from align.data.errors import UserError
from align.data.files import Row, read_rows, text
from align.data.generated.alpaca import alpaca
from align.data.generated.pool import Pool
from align.data.generated.sampling import Generate
from align.data.generated.self_instruct import Made, self_instruct
from align.data.generated.unnatural import unnatural
from align.data.rejects import BadRow, Rejects
from align.pipeline.progress import note, tracked

Method = Callable[[Sequence[Made], Generate, int, int, Pool], Iterator[Made]]
METHODS: dict[str, Method] = {
    "self_instruct": self_instruct,
    "unnatural": unnatural,
    "alpaca": alpaca,
}


def generate(
    seeds: Path, method: str, write: Generate, writer: str, rows: int, seed: int, out: Path
) -> None:
    """Write rows in Alpaca's format to `out` until it has `rows`; say what was left out and why."""
    known = read_seeds(seeds)
    pool = Pool(one.instruction for one in known)
    done = _rows_before(out, method, writer, pool)
    if done:
        note(f"{out} has {done} rows already")
    # Another seed, so that what is there is not asked for again.
    made = METHODS[method](known, write, rows - done, seed + done, pool)
    for one in tracked("instances", made, lambda _: 1):
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_row(one, method, writer), ensure_ascii=False) + "\n")
        done += 1
    for reason, count in pool.rejected.most_common():
        note(f"{count} left out: {reason}")
    if not done:
        raise UserError(f"{writer} wrote no instruction that can be used: try a larger model")
    note(f"{done} rows: {out}")


def _rows_before(out: Path, method: str, writer: str, pool: Pool) -> int:
    """How many rows an earlier session wrote, which join the pool. Raises: UserError, DataError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = out.read_bytes().rpartition(b"\n") if out.exists() else (b"", b"", b"")
    if whole[2]:  # a row that a killed session began
        with out.open("r+b") as file:
            file.truncate(len(whole[0]) + len(whole[1]))
    if not whole[0]:
        return 0
    rows = [row for _, row in read_rows(out)]
    for row in rows:
        if (row.get("task_id"), row.get("generated_by")) != (method, writer):
            raise UserError(
                f"--out {out}: has rows that {writer} did not write by {method}: name another file"
            )
        one = _seed(row)
        pool.recall(one.instruction, one.input, one.output)
    return len(rows)


def read_seeds(path: Path) -> list[Made]:
    """Rows of Self-Instruct's seed tasks, or of Alpaca's format. Raises: DataError."""
    rejects = Rejects(None)
    found = []
    for line, row in read_rows(path, rejects):
        try:
            found.append(_seed(row))
        except BadRow as bad:
            rejects.add(path, line, bad.field, bad.reason)
    rejects.finish()
    if not found:
        raise rejects.no_good_row(path)
    return found


def _seed(row: Row) -> Made:
    instances = row.get("instances")
    case = instances[0] if isinstance(instances, list) and instances else row
    if not isinstance(case, dict):
        raise BadRow("instances", "must be a list of inputs and outputs")
    given = text(case, "input") if case.get("input") else ""
    return Made(text(row, "instruction"), given, text(case, "output"))


def _row(one: Made, method: str, writer: str) -> dict[str, Any]:
    return vars(one) | {"task_id": method, "generated_by": writer}
