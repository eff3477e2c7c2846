"""The same records give the same table, bit for bit: hashes recorded from the first converters."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from align.data.config import FeedbackFormat, FeedbackSource
from align.data.demo import demo_instructions, demo_prompts
from align.data.feedback import read_feedback
from align.data.schemas import FEEDBACK, PREFERENCE, Record, completed
from align.reward.config import FeedbackConfig
from align.reward.convert import convert
from align.reward.feedback.pairs import Ties
from align.reward.pairs_file import write_pairs
from align.reward.simulated import simulate_feedback

PROMPTS = [row["prompt"] for row in demo_prompts(80, 3, "feedback")]
TEXTS = [row["completion"][0]["content"] for row in demo_instructions(320, 3)]
ANSWERS = [TEXTS[4 * i : 4 * i + 4] for i in range(80)]

# Of the configuration, whose hash changes with every new option.
UNPINNED = {"converter_config_sha256"}


def digest(records: Iterable[Record], folder: Path, ties: Ties) -> tuple[int, str]:
    """Rows and hash of the table as it is written."""
    write_pairs(folder / "pairs.parquet", convert(records, FeedbackConfig(ties=ties), 0.1))
    columns = [name for name in PREFERENCE.names if name not in UNPINNED]
    table = pq.read_table(folder / "pairs.parquet", columns=columns)
    text = json.dumps(table.to_pydict(), default=str, sort_keys=True)
    return table.num_rows, hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("ties", "recorded"), [("soft", (572, "76986fa5265c949d")), ("drop", (522, "a2052c195b36025c"))]
)
def test_simulated_feedback_gives_the_recorded_pairs(
    tmp_path: Path, ties: Ties, recorded: tuple[int, str]
) -> None:
    simulated = simulate_feedback(PROMPTS, ANSWERS, seed=3)
    records = [completed(one, FEEDBACK[kind]) for kind, rows in simulated.items() for one in rows]
    assert digest(records, tmp_path, ties) == recorded


@pytest.mark.parametrize(
    ("format", "name", "recorded"),
    [
        ("llmfao", "llmfao", (1906, "8584f6c847340cb0")),
        ("pandalm", "pandalm", (861, "2d6f49481e5ffaca")),
        ("oasst", "oasst", (481, "2e0bd6ab5b2e3e76")),
        ("rbr", "rbr", (793, "7dacf50ba968c1dd")),
    ],
)
def test_real_feedback_gives_the_recorded_pairs(
    tmp_path: Path, shared: Path, format: FeedbackFormat, name: str, recorded: tuple[int, str]
) -> None:
    source = FeedbackSource(format=format, path=shared / "data" / "feedback" / name)
    records = read_feedback([source], 0.01, tmp_path / "rejected.jsonl")
    assert digest(records, tmp_path, "soft") == recorded
