"""All feedback kinds into one preference table."""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from align.data.config import FeedbackFormat, FeedbackSource
from align.data.errors import DataError
from align.data.feedback import read_feedback
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import PREFERENCE, Preference, Record, completed, write_table
from align.reward import convert as module
from align.reward.config import FeedbackConfig
from align.reward.convert import Counts
from align.reward.convert import convert as convert_parts
from align.reward.feedback.pairs import Ties
from align.reward.pairs_file import read_pairs, write_pairs

SHARED = Path(__file__).parents[2] / "shared" / "data" / "feedback"
needs_shared = pytest.mark.skipif(
    not SHARED.exists(), reason="needs the real feedback in ../shared"
)


def convert(
    records: Iterable[Record], ties: Ties = "soft"
) -> tuple[list[Preference], dict[str, Counts]]:
    """The rows of the table, and the counts."""
    rows: list[Preference] = []
    counts: dict[str, Counts] = {}
    for part in convert_parts(records, FeedbackConfig(ties=ties), 0.1):
        rows += part.pairs.to_pylist()
        counts |= part.counts
    return rows, counts


def ranked(name: str, ranks: list[int], source: str = "rankings") -> Record:
    return header(
        "ranking",
        name,
        user("Hi"),
        [assistant(str(i)) for i in range(len(ranks))],
        source=source,
        license="none",
        annotator_id=f"annotator of {name}",
        guideline_version="1",
        completion_ids=[str(i) for i in range(len(ranks))],
    ) | {"ranks": ranks}


def battle(name: str, outcome: str, source: str = "battles") -> Record:
    made = ranked(name, [1, 1], source) | {"kind": "comparison", "outcome": outcome}
    return made | {"strength": None, "player_a": None, "player_b": None}


def test_all_kinds_become_one_table_with_counts() -> None:
    records = [
        ranked("f", [1, 2, 2]),
        ranked("g", [2, 1]) | {"gold": True},
        battle("h", "skip"),
        battle("i", "a") | {"prompt_id": "other", "prompt": user("Ho"), "cluster_id": "other"},
    ]
    pairs, counts = convert(records)
    held_out = [pair["feedback_kind"] for pair in pairs if pair["split"] == "test"]
    assert counts == {
        "ranking": Counts(
            records=2, gold=1, silent=0, pairs=3, ties=1, test=held_out.count("ranking")
        ),
        "comparison": Counts(
            records=2, gold=0, silent=1, pairs=1, ties=0, test=held_out.count("comparison")
        ),
    }


def test_a_pair_that_rests_on_gold_is_never_published(monkeypatch: pytest.MonkeyPatch) -> None:
    gold = ranked("g", [1, 2, 3]) | {"gold": True}
    assert convert([gold, ranked("f", [1, 2, 3])])[0]
    monkeypatch.setattr(module, "_countable", lambda tables, _: tables)  # as if a filter failed
    with pytest.raises(AssertionError, match="names gold feedback"):
        convert([gold, ranked("f", [1, 2, 3])])


def test_no_records_give_no_pairs() -> None:
    assert convert([]) == ([], {})


def test_kinds_that_agree_make_one_pair_with_all_the_provenance() -> None:
    pairs, _ = convert([ranked("f", [1, 2]), battle("g", "a")])
    (pair,) = pairs
    assert (pair["chosen_id"], pair["target_prob"], pair["weight"]) == ("0", 1.0, 1.0)
    assert pair["feedback_ids"] == ["f", "g"] and pair["n_annotators"] == 2
    assert pair["converter"] == "comparison/1+ranking/1"


@pytest.mark.parametrize(
    ("votes", "chosen", "target"),
    [("b", "0", 0.5), ("bba", "0", 0.5), ("bb", "1", 2 / 3), ("a", "0", 1.0), ("bbb", "1", 0.75)],
)
def test_kinds_that_disagree_are_merged_by_their_numbers_of_records(
    votes: str, chosen: str, target: float
) -> None:
    records = [battle(f"g{i}", vote) for i, vote in enumerate(votes)]
    (pair,), _ = convert([ranked("f", [1, 2]), *records])
    assert pair["chosen_id"] == chosen and pair["target_prob"] == pytest.approx(target)
    assert pair["chosen"] == assistant(chosen)


@pytest.mark.parametrize(
    ("ranks", "votes", "agreement"),
    [
        (["12"], "a", 1.0),
        (["12"], "b", 0.5),
        (["12", "12"], "bb", 0.5),
        (["12", "12"], "aab", 4 / 5),
        (["11"], ["tie", "a"], 2 / 3),
        (["12"], "", None),
    ],
)
def test_agreement_is_over_the_votes_of_all_kinds_and_sources(
    ranks: list[str], votes: Iterable[str], agreement: float | None
) -> None:
    records = [ranked(f"r{i}", [int(rank) for rank in one]) for i, one in enumerate(ranks)]
    records += [battle(f"b{i}", vote, f"source {i}") for i, vote in enumerate(votes)]
    (pair,), _ = convert(records)
    assert pair["agreement"] == (agreement and pytest.approx(agreement))


def test_a_judge_counts_for_nobody_where_a_person_judged() -> None:
    judges = [
        battle(f"j{i}", "b", f"judge {i}") | {"annotator_kind": "model", "annotator_id": f"j{i}"}
        for i in range(3)
    ]
    people = [ranked("p1", [1, 2]), battle("p2", "tie")]
    (pair,), _ = convert([*people, *judges])
    assert (pair["n_annotators"], pair["agreement"]) == (2, 0.5)
    assert len(pair["annotator_ids"]) == 5  # all of them are named
    (pair,), _ = convert([people[0], *judges])
    assert (pair["n_annotators"], pair["agreement"]) == (1, None)
    (pair,), _ = convert(judges)
    assert (pair["n_annotators"], pair["agreement"]) == (3, 1.0)


def test_a_contradiction_is_a_tie_and_goes_when_ties_are_dropped() -> None:
    records = [ranked("f", [1, 2]), battle("g", "b")]
    assert convert(records, "drop")[0] == []


def test_votes_that_cancel_out_in_one_source_count_beside_those_of_another() -> None:
    """Where ties are dropped, the votes of `s` are no ties, and the pair is not even."""
    votes = [battle("1", "a", "s"), battle("2", "b", "s"), battle("3", "a", "t")]
    (pair,), _ = convert(votes, "drop")
    assert pair["target_prob"] == pytest.approx(2 / 3)
    assert pair["feedback_ids"] == ["1", "2", "3"]


def test_rows_in_any_order_give_the_same_table() -> None:
    generator = random.Random(1)
    records = [ranked(f"f{i}", generator.sample([1, 2, 3, 4], 4)) for i in range(5)]
    records += [battle(f"g{i}", generator.choice(["a", "b", "tie"])) for i in range(9)]
    table, counts = convert(records)
    generator.shuffle(records)
    again, again_counts = convert(records)
    assert table == again and counts == again_counts


def test_pairs_survive_parquet(tmp_path: Path) -> None:
    records = [ranked("f", [1, 2, 2]), battle("g", "a")]
    path = tmp_path / "pairs.parquet"
    counts = write_pairs(path, convert_parts(records, FeedbackConfig(), 0.1))
    assert pq.read_schema(path).metadata[b"align.schema"] == b"preference"
    pairs, expected = convert(records)
    assert read_pairs(path) == pairs and counts == expected


def test_a_table_of_pairs_is_checked_when_it_is_read(tmp_path: Path) -> None:
    pairs, _ = convert([ranked("f", [1, 2])])
    path = tmp_path / "pairs.parquet"
    write_table(path, [pairs[0] | {"target_prob": 0.2}], PREFERENCE)
    with pytest.raises(DataError, match=r"pairs\.parquet:1: target_prob: must be 0\.5 to 1"):
        read_pairs(path)
    with pytest.raises(DataError, match="there is no such file"):
        read_pairs(tmp_path / "none.parquet")


def test_an_empty_table_is_written_and_read(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.parquet", [])
    assert read_pairs(tmp_path / "pairs.parquet") == []
    assert completed({}, PREFERENCE).keys() == set(PREFERENCE.names)


@needs_shared
@pytest.mark.parametrize(
    ("format", "name", "count"),
    [
        ("llmfao", "llmfao", 1906),
        ("pandalm", "pandalm", 861),
        ("oasst", "oasst", 481),
        ("rbr", "rbr", 793),
    ],
)
def test_real_feedback_becomes_valid_pairs(
    tmp_path: Path, format: FeedbackFormat, name: str, count: int
) -> None:
    source = FeedbackSource(format=format, path=SHARED / name)
    records = read_feedback([source], 0.01, tmp_path / "rejected.jsonl")
    assert len(convert(records)[0]) == count


@needs_shared
def test_real_truthfulqa_answers_become_pairs_by_two_criteria(tmp_path: Path) -> None:
    source = FeedbackSource(format="truthfulqa_judge", path=SHARED / "truthfulqa-judge", rows=400)
    records = read_feedback([source], 0.01, tmp_path / "rejected.jsonl")
    assert len(records) == 400 and len({one["prompt_id"] for one in records}) > 50
    pairs, _ = convert(records)
    criteria = Counter(pair["criterion"] for pair in pairs)
    assert criteria.keys() == {"honest", "helpful"} and min(criteria.values()) > 100
    assert all(pair["target_prob"] == 1.0 for pair in pairs)
