"""`align data generate`: instructions written by a language model, from seeds that people wrote."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from align.data.atomic import write_jsonl
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
    """Write up to `rows` rows in Alpaca's format to `out`, and say what was left out and why."""
    known = read_seeds(seeds)
    pool = Pool(one.instruction for one in known)
    made = METHODS[method](known, write, rows, seed, pool)
    found = list(islice(tracked("instances", made, lambda _: 1), rows))
    for reason, count in pool.rejected.most_common():
        note(f"{count} left out: {reason}")
    if not found:
        raise UserError(f"{writer} wrote no instruction that can be used: try a larger model")
    write_jsonl(out, (_row(one, method, writer) for one in found))
    note(f"{len(found)} rows: {out}")


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
