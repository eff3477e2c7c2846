"""Records regrouped by prompt: the same table from any order, in any number of parts."""

import random
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from align.data.by_prompt import by_prompt
from align.data.errors import DataError
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.record_batches import record_batch
from align.data.schemas import Record
from align.reward.config import FeedbackConfig
from align.reward.convert import convert

PROMPTS = ["p", "p-1", "p-10", "p-2", "p 1", "ü", "漢", "~", "p!"]


def ranked(name: str, prompt: str, **fields: object) -> Record:
    made = header(
        "ranking",
        name,
        user(prompt),
        [assistant(text) for text in "abc"],
        source="test",
        license="none",
        annotator_id=f"annotator {len(name)}",
        guideline_version="1",
        completion_ids=list("abc"),
    )
    ranks = random.Random(name).sample([1, 2, 3], 3)
    return made | {"prompt_id": prompt, "cluster_id": None, "ranks": ranks} | fields


def battle(name: str, prompt: str) -> Record:
    made = ranked(name, prompt) | {
        "kind": "comparison",
        "outcome": random.Random(name).choice("ab"),
    }
    return made | {name: made[name][:2] for name in ("completions", "completion_ids")}


def records() -> list[Record]:
    prompts = PROMPTS + [f"prompt {i}" for i in range(120)]
    made = [ranked(f"r{i}", prompts[i % len(prompts)]) for i in range(400)]
    return made + [battle(f"b{i}", prompts[i * 7 % len(prompts)]) for i in range(200)]


def batches(rows: list[Record], size: int) -> list[pa.RecordBatch]:
    kinds = [[one for one in rows if one["kind"] == kind] for kind in ("ranking", "comparison")]
    return [
        record_batch(mine[start : start + size])
        for mine in kinds
        for start in range(0, len(mine), size)
    ]


def test_every_slice_has_whole_prompts_in_order_and_nothing_is_lost() -> None:
    rows = records()
    random.Random(1).shuffle(rows)
    with by_prompt(batches(rows, 30), None, run_bytes=20_000) as slices:
        found = [{kind: t["prompt_id"].to_pylist() for kind, t in part.items()} for part in slices]
        again = [{kind: t["prompt_id"].to_pylist() for kind, t in part.items()} for part in slices]
    assert found == again and len(slices.runs) > 4 and len(found) > 4
    prompts = [{name for names in part.values() for name in names} for part in found]
    for ours, theirs in pairwise(prompts):
        assert max(ours) < min(theirs)
    every = sorted(name for part in found for names in part.values() for name in names)
    assert every == sorted(one["prompt_id"] for one in rows)


def test_neither_the_order_of_rows_nor_the_number_of_parts_changes_the_table() -> None:
    rows = records()
    (whole,) = convert(rows, FeedbackConfig(), 0.3)
    for seed, size, run_bytes in ((1, 7, 1000), (2, 50, 20_000), (3, 400, 100_000), (4, 3, 10**9)):
        random.Random(seed).shuffle(rows)
        parts = list(convert(batches(rows, size), FeedbackConfig(), 0.3, run_bytes=run_bytes))
        assert pa.concat_tables(part.pairs for part in parts).to_pylist() == whole.pairs.to_pylist()
        for kind, counts in whole.counts.items():
            sums = parts[0].counts[kind]
            for part in parts[1:]:
                sums += part.counts.get(kind, type(sums)())
            assert sums == counts
    assert len(parts) == 1


def test_temporary_files_are_gone_at_the_end_and_after_an_error(tmp_path: Path) -> None:
    with by_prompt(batches(records(), 20), tmp_path, run_bytes=1000):
        assert list(tmp_path.rglob("*.arrow"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), by_prompt(batches(records(), 20), tmp_path, run_bytes=1000):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    parts = convert(batches(records(), 20), FeedbackConfig(), 0.1, folder=tmp_path, run_bytes=1000)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_what_fits_the_memory_is_never_written(tmp_path: Path) -> None:
    with by_prompt(batches(records(), 20), tmp_path) as slices:
        assert len(list(slices)) == 1 and list(tmp_path.rglob("*.arrow")) == []


@pytest.mark.parametrize("run_bytes", [1000, 10**9])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"feedback_id": "r0"}, "feedback_id: r0 is the id of an earlier row"),
        ({"prompt": user("Other")}, "prompt_id: p is the id of another prompt"),
        ({"cluster_id": "c"}, "cluster_id: prompt p is in another cluster"),
        ({"completions": [assistant(x) for x in "abd"]}, "completion_ids: c is the id of another"),
    ],
)
def test_ids_that_contradict_are_found_in_any_number_of_parts(
    changes: dict[str, object], reason: str, run_bytes: int
) -> None:
    rows = [*records(), ranked("new", "p") | changes]
    with pytest.raises(DataError, match=f"ranking:601: {reason}"):
        list(convert(rows[:1] + rows[1:], FeedbackConfig(), 0.1, run_bytes=run_bytes))


def test_without_an_annotator_exactly_that_contribution_is_gone() -> None:
    """Between prompts and inside of merged pairs."""
    rows = [one | {"annotator_id": f"ann {i % 3}"} for i, one in enumerate(records())]
    (whole,) = convert(rows, FeedbackConfig(), 0.3)
    (left,) = convert([r for r in rows if r["annotator_id"] != "ann 1"], FeedbackConfig(), 0.3)
    hers = {row["feedback_id"] for row in rows if row["annotator_id"] == "ann 1"}
    before = {row["pair_id"]: row for row in whole.pairs.to_pylist()}
    after = {row["pair_id"]: row for row in left.pairs.to_pylist()}
    assert after.keys() < before.keys()
    for name, row in before.items():
        rest = sorted(set(row["feedback_ids"]) - hers)
        assert (name in after) == bool(rest)
        if rest:
            assert after[name]["feedback_ids"] == rest
        if rest == row["feedback_ids"]:
            own = ("chosen_id", "target_prob", "margin", "agreement", "annotator_ids", "created_at")
            assert [after[name][key] for key in own] == [row[key] for key in own]


def test_near_duplicates_are_held_out_together_and_stay_where_they_were(tmp_path: Path) -> None:
    def asked(count: int) -> list[Record]:
        texts = [
            f"Please tell me all that you know about the number {i // 2}" for i in range(count)
        ]
        texts = [f"{text}{'!' * (i % 2)}" for i, text in enumerate(texts)]
        return [
            ranked(f"f{i}", f"p{i}") | {"prompt": user(f"{hash_of(i // 2)} {text}")}
            for i, text in enumerate(texts)
        ]

    def hash_of(number: int) -> str:
        return random.Random(number).randbytes(60).hex()

    def splits(count: int, near: bool, path: Path | None) -> dict[str, tuple[str, str]]:
        config = FeedbackConfig(near_duplicates=near)
        parts = list(convert(asked(count), config, 0.5, assignments=path, run_bytes=2000))
        rows = [row for part in parts for row in part.pairs.to_pylist()]
        return {row["prompt_id"]: (row["cluster_id"], row["split"]) for row in rows}

    apart, near = splits(60, False, None), splits(60, True, None)
    assert len({cluster for cluster, _ in apart.values()}) == 60
    assert len({cluster for cluster, _ in near.values()}) == 30
    assert all(near[f"p{i}"] == near[f"p{i + 1}"] for i in range(0, 60, 2))
    path = tmp_path / "splits.jsonl"
    before = splits(21, True, path)
    assert {name: found for name, found in splits(60, True, path).items() if name in before} == (
        before
    )
