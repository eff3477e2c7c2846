"""Raw records of every kind into one preference table. After this nobody knows the kinds apart."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from align.data.errors import DataError, UserError
from align.data.files import read_rows
from align.data.invariants import preferences_problems
from align.data.messages import sha256_of
from align.data.schemas import PREFERENCE, Preference, Record, check_version, completed, write_table
from align.data.validate import validate_preference
from align.reward.feedback import elo, questions, ranking, rules
from align.reward.feedback.pairs import Ties, weighed

TO_PAIRS: dict[str, Callable[[Iterable[Record], Ties, float], list[Preference]]] = {
    "ranking": ranking.to_pairs,
    "comparison": elo.to_pairs,
    "question": questions.to_pairs,
    "rule": rules.to_pairs,
}


@dataclass(frozen=True)
class Counts:
    """What became of the records of one kind."""

    records: int
    gold: int
    silent: int  # neither gold nor in any pair: skipped, unsure, or nothing to compare with
    pairs: int
    ties: int
    test: int  # pairs that are held out


def convert(
    records: Sequence[Record], ties: Ties, held_out: float
) -> tuple[list[Preference], dict[str, Counts]]:
    """Valid pairs from valid records, and the counts by kind.

    Raises: UserError for a kind that has no converter.
    """
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_kind[record["kind"]].append(record)
    if unknown := sorted(by_kind.keys() - TO_PAIRS.keys()):
        known = ", ".join(TO_PAIRS)
        raise UserError(f"feedback of kind {unknown[0]} cannot become pairs yet: use {known}")
    made = [pair for kind, mine in by_kind.items() for pair in TO_PAIRS[kind](mine, ties, held_out)]
    pairs = weighed(pair for pair in _merged(made) if ties == "soft" or pair["target_prob"] != 0.5)
    _assert_valid(pairs, records)
    return pairs, {kind: _counts(kind, mine, pairs) for kind, mine in by_kind.items()}


def write_pairs(path: Path, pairs: Sequence[Preference]) -> None:
    """The preference table as Parquet."""
    write_table(path, pairs, PREFERENCE)


def read_pairs(path: Path) -> list[Preference]:
    """A preference table that `write_pairs` wrote, checked again.

    Raises: DataError if it is missing, newer than this program, or holds an invalid row.
    """
    check_version(path, "preference")
    pairs = []
    for line, row in read_rows(path):
        pair = completed(row, PREFERENCE)
        for name, reason in validate_preference(pair):
            raise DataError(f"{path}:{line}: {name}: {reason}")
        pairs.append(pair)
    return pairs


def _merged(pairs: Iterable[Preference]) -> list[Preference]:
    """One row per pair_id: other kinds and sources may have judged the same two answers.

    They speak for the number of their records, and may disagree. The row stays in the first of
    the groups by name.
    """
    same: dict[str, list[Preference]] = defaultdict(list)
    for pair in pairs:
        same[pair["pair_id"]].append(pair)
    return [rows[0] if len(rows) == 1 else _merge(rows) for rows in same.values()]


def _merge(rows: list[Preference]) -> Preference:
    rows.sort(key=lambda row: (row["group_id"], row["feedback_kind"]))
    first = rows[0]
    low = min(first["chosen_id"], first["rejected_id"])
    signs = [1.0 if row["chosen_id"] == low else -1.0 for row in rows]
    weights = [len(row["feedback_ids"]) for row in rows]
    total = sum(weights)
    edge = (
        math.fsum(
            sign * weight * (row["target_prob"] - 0.5)
            for row, sign, weight in zip(rows, signs, weights, strict=True)
        )
        / total
    )
    gap = (
        math.fsum(
            sign * weight * row["margin"]
            for row, sign, weight in zip(rows, signs, weights, strict=True)
        )
        / total
    )
    # A tie has the smaller id as chosen, like a win of it.
    sign = -1.0 if edge < 0 else 1.0
    better = rows[signs.index(sign)] if sign in signs else _turned(first)
    annotators = sorted({name for row in rows for name in row["annotator_ids"]})
    guidelines = {row["guideline_version"] for row in rows}
    return first | {
        **{name: better[name] for name in ("chosen", "rejected", "chosen_id", "rejected_id")},
        "target_prob": 0.5 + abs(edge),
        "margin": max(0.0, gap * sign) if edge else 0.0,
        "feedback_ids": sorted({name for row in rows for name in row["feedback_ids"]}),
        "annotator_ids": annotators,
        "n_annotators": len(annotators),
        "agreement": None,
        "score_chosen": None,  # scores of different kinds have no common scale
        "score_rejected": None,
        "converter": "+".join(sorted({row["converter"] for row in rows})),
        "converter_config_sha256": sha256_of(
            sorted({row["converter_config_sha256"] for row in rows})
        ),
        "guideline_version": guidelines.pop() if len(guidelines) == 1 else None,
        "created_at": max(row["created_at"] for row in rows),
    }


def _turned(row: Preference) -> Preference:
    return row | {
        "chosen": row["rejected"],
        "rejected": row["chosen"],
        "chosen_id": row["rejected_id"],
        "rejected_id": row["chosen_id"],
    }


def _assert_valid(pairs: Sequence[Preference], records: Sequence[Record]) -> None:
    """Valid records give valid pairs; anything else is our bug."""
    for pair in pairs:
        problems = validate_preference(pair)
        assert not problems, (pair["pair_id"], problems)
    by_id = {record["feedback_id"]: record for record in records}
    table_problems = list(preferences_problems(pairs, by_id))
    assert not table_problems, table_problems[:3]


def _counts(kind: str, records: Sequence[Record], pairs: Sequence[Preference]) -> Counts:
    mine = [pair for pair in pairs if pair["feedback_kind"] == kind]
    used = {name for pair in pairs for name in pair["feedback_ids"]}
    splits = Counter(pair["split"] for pair in mine)
    gold = sum(record["gold"] for record in records)
    return Counts(
        records=len(records),
        gold=gold,
        silent=sum(record["feedback_id"] not in used for record in records) - gold,
        pairs=len(mine),
        ties=sum(pair["target_prob"] == 0.5 for pair in mine),
        test=splits["test"],
    )
