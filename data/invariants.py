"""What must hold between rows: of a set of raw records, and of a preference table.

A problem is (row index, field, reason).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from align.data.schemas import Preference, Record

TableProblem = tuple[int, str, str]

WEIGHT_TOLERANCE = 1e-6


def records_problems(records: Sequence[Record]) -> Iterator[TableProblem]:
    """Ids that mean two things: each names one feedback, prompt or answer."""
    feedback: set[str] = set()
    prompts: dict[str, object] = {}
    answers: dict[tuple[str, str], object] = {}
    clusters: dict[str, str | None] = {}
    for row, record in enumerate(records):
        prompt_id = record["prompt_id"]
        if record["feedback_id"] in feedback:
            yield row, "feedback_id", f"{record['feedback_id']} is the id of an earlier row"
        elif prompts.setdefault(prompt_id, record["prompt"]) != record["prompt"]:
            yield row, "prompt_id", f"{prompt_id} is the id of another prompt"
        elif clusters.setdefault(prompt_id, record["cluster_id"]) != record["cluster_id"]:
            yield row, "cluster_id", f"prompt {prompt_id} is in another cluster in an earlier row"
        else:
            yield from _answer_problems(row, record, answers)
        feedback.add(record["feedback_id"])


def _answer_problems(
    row: int, record: Record, answers: dict[tuple[str, str], object]
) -> Iterator[TableProblem]:
    for name, completion in zip(record["completion_ids"], record["completions"], strict=True):
        if answers.setdefault((record["prompt_id"], name), completion) != completion:
            yield row, "completion_ids", f"{name} is the id of another answer to this prompt"
            return


def preferences_problems(
    pairs: Sequence[Preference], records: Mapping[str, Record]
) -> Iterator[TableProblem]:
    """Groups, splits, directions and provenance; `records` are those by feedback_id."""
    yield from _group_problems(pairs)
    splits: dict[str, str] = {}
    seen: set[tuple[str, str, str, str]] = set()
    for row, pair in enumerate(pairs):
        if splits.setdefault(pair["cluster_id"], pair["split"]) != pair["split"]:
            yield row, "split", f"cluster {pair['cluster_id']} is in two splits"
        prompt, criterion = pair["prompt_id"], pair["criterion"]
        chosen, rejected = pair["chosen_id"], pair["rejected_id"]
        if (prompt, criterion, rejected, chosen) in seen:
            yield row, "pair_id", "the reversed pair is there too"
        if (prompt, criterion, chosen, rejected) in seen:
            yield row, "pair_id", "the same pair is there twice"
        seen.add((prompt, criterion, chosen, rejected))
        yield from _provenance_problems(row, pair, records)


def _provenance_problems(
    row: int, pair: Preference, records: Mapping[str, Record]
) -> Iterator[TableProblem]:
    for name in pair["feedback_ids"]:
        if name not in records:
            yield row, "feedback_ids", f"there is no feedback {name}"
        elif records[name]["gold"]:
            yield row, "feedback_ids", f"{name} is gold: it tests annotators and trains nothing"


def _group_problems(pairs: Sequence[Preference]) -> Iterator[TableProblem]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row, pair in enumerate(pairs):
        groups[pair["group_id"]].append(row)
    for name, rows in groups.items():
        total = sum(pairs[row]["weight"] for row in rows)
        if abs(total - 1) > WEIGHT_TOLERANCE:
            yield rows[0], "weight", f"the weights of group {name} sum to {total}, not 1"
        for row in rows:
            if pairs[row]["group_size"] != len(rows):
                size = pairs[row]["group_size"]
                yield row, "group_size", f"is {size}, group {name} has {len(rows)} pairs"
