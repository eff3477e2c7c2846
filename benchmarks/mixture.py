"""How fast a mixture is drawn, and in how much memory.

    python benchmarks/mixture.py                 # 1,000,000 and 10,000,000 rows
    python benchmarks/mixture.py --rows 1000000  # one size

Three synthetic sources (one row in a hundred, in four, and the rest) lie encoded on the disk; a
mixture of them, with a rate cap, a quality source and text by token share, is planned and a million
rows are drawn and read. Each size runs in a process of its own. Memory is the peak that the process
itself holds: pages of the mapped files, which the system takes back when it needs them, are
counted apart.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from align.data.mixture.plan import planned
from align.data.mixture.store import BATCH, SCHEMA, Store
from align.data.mixture_config import Mixture, SourceShare

DRAWS = 1_000_000
PROMPT, ANSWER = 12, 20  # tokens
SHARES = {"quality": 0.01, "text": 0.25, "large": 0.74}
MIXTURE = Mixture(
    rows=DRAWS,
    rate_cap=500_000,
    sources=(
        SourceShare(name="quality", quality=3, max_epochs=3),
        SourceShare(name="text", token_share=0.1),
    ),
)


def write_source(path: Path, rows: int) -> None:
    """Rows of random tokens, a batch at a time."""
    generator = np.random.default_rng(rows)
    with path.open("wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
        for first in range(0, rows, BATCH):
            count = min(BATCH, rows - first)
            names = [pa.array([name]).take(pa.array(np.zeros(count, int))) for name in "tlm"]
            words = pa.array(generator.integers(0, 2**63, count).astype(np.uint64))
            columns = [
                *(_tokens(generator, count, length) for length in (PROMPT, ANSWER)),
                pa.array(np.zeros(count, dtype=bool)),
                words,
                *names,
                names[0],
            ]
            stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))


def _tokens(generator: np.random.Generator, count: int, length: int) -> pa.Array:
    ids = generator.integers(0, 32_000, count * length).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * length), ids)


def memory(field: str) -> float:
    """MiB, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(folder: Path) -> None:
    """Plan and draw from what lies in the folder; one line."""
    peak = {"RssAnon": 0.0, "RssFile": 0.0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for field in peak:
                peak[field] = max(peak[field], memory(field))

    before = memory("RssAnon")
    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    stores = [Store(folder / f"{name}.arrow") for name in SHARES]
    counts = np.array([len(store) for store in stores])
    means = np.array([store.tokens() / len(store) for store in stores])
    plan = planned(MIXTURE, list(SHARES), counts, means, seed=1)
    ready = time.perf_counter()
    tokens = 0
    for source, row in plan.stream(0, DRAWS):
        prompt, answer = stores[source].ids(row)
        tokens += len(prompt) + len(answer)
    ended = time.perf_counter()
    done.set()
    watcher.join()
    print(
        f"{counts.sum():>12,} rows: planned in {ready - began:5.2f} s, {DRAWS:,} draws "
        f"({tokens:,} tokens) at {DRAWS / (ended - ready):>9,.0f} rows/s; memory "
        f"{before:.0f} MiB before, {peak['RssAnon']:.0f} at its peak, and mapped "
        f"{peak['RssFile']:.0f}"
    )


def main() -> None:
    """Each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure)
        return
    for rows in asked.rows:
        with tempfile.TemporaryDirectory() as folder:
            for name, share in SHARES.items():
                write_source(Path(folder) / f"{name}.arrow", round(rows * share))
            subprocess.run([sys.executable, __file__, "--measure", folder], check=True)


if __name__ == "__main__":
    main()
