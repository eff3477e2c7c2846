"""How fast raw feedback becomes pairs, and in how much memory.

    python benchmarks/conversion.py                # 100,000 and 1,000,000
    python benchmarks/conversion.py --rows 100000  # one size

Rankings of four answers in Parquet become `pairs.parquet`, each size in a process of its own, whose
peak memory is that of the process. Then 20,000 records of every kind, in memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from align.data.config import FeedbackSource
from align.data.feedback import feedback_batches
from align.data.record_batches import plain
from align.data.rejects import Rejects
from align.data.schemas import FEEDBACK, LEAST_COMPLETIONS, MESSAGES, TIME
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.pairs_file import write_pairs

BATCH = 10_000
EACH = 20_000  # records of each kind
WORDS = np.array([f"word{i}" for i in range(2000)])
ANSWERS = {"best_of": 4, "ranking": 4, "question": 4}


def texts(count: int, words: int, generator: np.random.Generator) -> pa.Array:
    """Random texts."""
    return pa.array([" ".join(row) for row in generator.choice(WORDS, (count, words))])


def messages(role: str, contents: pa.Array) -> pa.ListArray:
    """One message each."""
    roles = pa.array([role]).take(pa.array(np.zeros(len(contents), dtype=np.int64)))
    fields = list(MESSAGES.value_type)
    items = pa.StructArray.from_arrays([roles, contents], fields=fields)
    offsets = pa.array(np.arange(len(contents) + 1, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, items, type=MESSAGES)


def record_batch(kind: str, first: int, count: int) -> pa.RecordBatch:
    """Records number `first` and following: three people judge each prompt by its answers."""
    chance = np.random.default_rng([first, len(kind)])
    size = ANSWERS.get(kind, LEAST_COMPLETIONS[kind])
    record = np.arange(first, first + count)
    prompt = record // 3 if size > 1 else record // 12
    answer = np.arange(size) + np.zeros((count, 1), int) if size > 1 else (record // 3 % 4)[:, None]
    pool = texts(997, 40, np.random.default_rng(0))
    said = pool.take(pa.array((prompt[:, None] * 31 + answer * 7 + 1).ravel() % 997))
    rows = zip(prompt.tolist(), answer.tolist(), strict=True)
    asked = pool.take(pa.array(prompt % 997)).to_pylist()
    asked = [f"{text} {one}" for text, one in zip(asked, prompt.tolist(), strict=True)]
    columns = {
        "feedback_id": pa.array([f"feedback-{kind}-{one}" for one in record.tolist()]),
        "prompt_id": pa.array([f"{one * 2654435761 % 2**32:08x}-{one}" for one in prompt.tolist()]),
        "prompt": messages("user", pa.array(asked)),
        "completions": lists(messages("assistant", said), size),
        "completion_ids": lists(pa.array([f"{p}-{a}" for p, row in rows for a in row]), size),
        "annotator_id": pa.array([f"annotator-{one}" for one in (record * 7 % 50).tolist()]),
        "created_at": pa.array(record * 10**6).cast(TIME),
    } | judgements(kind, count, size, chance)
    constants = {"kind": kind, "criterion": "overall", "annotator_kind": "human", "gold": False}
    constants |= {"guideline_version": "1", "source": "benchmark"} | CONSTANTS.get(kind, {})
    for name, value in constants.items():
        columns.setdefault(name, pa.array([value] * count))
    schema = plain(FEEDBACK[kind])
    filled = [
        columns[field.name].cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(filled, schema=schema)


def lists(values: pa.Array, size: int) -> pa.ListArray:
    """So many values a list."""
    offsets = pa.array(np.arange(0, len(values) + 1, size, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, values)


CONSTANTS: dict[str, dict[str, object]] = {
    "best_of": {"none_acceptable": False},
    "question": {"questionnaire_version": "1"},
    "rule": {
        "criterion": "rule:polite",
        "rule_id": "polite",
        "rule_text": "Be polite.",
        "ruleset_version": "1",
        "adversarial": False,
    },
    "rbrm": {
        "annotator_kind": "model",
        "rubric_id": "r",
        "rubric_version": "1",
        "judge_id": "j",
        "prompt_class": "harmful",
        "option_ids": ["A", "B"],
        "option_logprobs": [-0.1, -2.0],
        "chosen_option": "A",
        "n_permutations": 2,
    },
}


def judgements(
    kind: str, count: int, size: int, chance: np.random.Generator
) -> dict[str, pa.Array]:
    """What differs from record to record of one kind alone."""
    if kind == "best_of":
        return {"best_index": pa.array(chance.integers(0, size, count))}
    if kind == "ranking":
        ranks = chance.permuted(np.tile(np.arange(1, size + 1), (count, 1)), axis=1)
        return {"ranks": lists(pa.array(ranks.ravel()), size)}
    if kind == "comparison":
        return {"outcome": pa.array(chance.choice(["a", "b", "tie"], count))}
    if kind == "question":
        values = chance.choice([0.0, 0.5, 1.0], count * size * 3).tolist()
        return {"answers": lists(pa.array([given(*one) for one in enumerate(values)]), 3 * size)}
    if kind == "rule":
        return {"severity": pa.array(chance.integers(1, 6, count))}
    return {"reward": pa.array(chance.random(count))}


def given(place: int, value: float) -> dict[str, object]:
    """The answer to one of three questions."""
    made = {"question_id": f"q{place % 3}", "criterion": "helpful", "option": "", "value": value}
    return made | {"weight": 1.0, "gate": False}


def stream(rows: int, folder: Path) -> None:
    """Write rankings to Parquet in another process, then convert them in this one."""
    path = folder / "rankings.parquet"
    subprocess.run(
        [sys.executable, __file__, "--write", str(path), "--rows", str(rows)], check=True
    )
    before = peak_memory()
    start = time.perf_counter()
    rejects = Rejects(folder / "rejected.jsonl", 0)
    batches = feedback_batches([FeedbackSource(format="records", path=path)], rejects)
    parts = convert(batches, FeedbackConfig(), 0.1, rejects=rejects, folder=folder)
    pairs = write_pairs(folder / "pairs.parquet", parts)["ranking"].pairs
    seconds = time.perf_counter() - start
    sizes = [
        (folder / name).stat().st_size / 2**20 for name in ("rankings.parquet", "pairs.parquet")
    ]
    print(
        f"{rows:>9,} rankings, {pairs:,} pairs: {seconds:.1f} s, {rows / seconds:,.0f} records/s, "
        f"{pairs / seconds:,.0f} pairs/s; peak {peak_memory():,.0f} MiB ({before:,.0f} before); "
        f"files {sizes[0]:,.0f} MiB in, {sizes[1]:,.0f} MiB out",
        flush=True,
    )


def peak_memory() -> float:
    """The most that this process had resident, in MiB; getrusage also counts who started it."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1]) / 1024


def every_kind() -> None:
    """Rows a second of each kind, from batches in memory to the table in memory."""
    for kind in FEEDBACK:
        batches = [record_batch(kind, first, BATCH) for first in range(0, EACH, BATCH)]
        start = time.perf_counter()
        pairs = sum(len(part.pairs) for part in convert(batches, FeedbackConfig(), 0.1))
        seconds = time.perf_counter() - start
        print(
            f"{kind:>10}: {EACH / seconds:>9,.0f} records/s, {pairs / seconds:>9,.0f} pairs/s",
            flush=True,
        )


def write(path: Path, rows: int) -> None:
    """Rankings into a Parquet file."""
    with pq.ParquetWriter(path, plain(FEEDBACK["ranking"])) as writer:
        for first in range(0, rows, BATCH):
            writer.write_batch(record_batch("ranking", first, min(BATCH, rows - first)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write, arguments.rows)
    elif arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            stream(arguments.rows, Path(folder))
    else:
        every_kind()
        for rows in (100_000, 1_000_000):
            subprocess.run([sys.executable, __file__, "--rows", str(rows)], check=True)


if __name__ == "__main__":
    main()
