"""From judgements to preference pairs: what all feedback kinds share.

A converter says what a record means as `Opinion`s: of two answers to one prompt, how likely the
first is the better one. Here opinions on the same two answers are merged into one pair, so a pair
and its reverse never both exist, and every prompt gets the same weight.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

from align.data.messages import Message, sha256_of
from align.data.schemas import Preference, Record
from align.data.splits import split_of

Ties = Literal["soft", "drop"]
VERSION = 1  # of the conversion; raise it when the same records give other pairs


class Answer(NamedTuple):
    """One answer to a prompt."""

    id: str
    turns: list[Message]


class Scored(NamedTuple):
    """An answer that was judged alone, by one record."""

    record: Record
    score: float


@dataclass(frozen=True)
class Opinion:
    """What some records say about two answers to their prompt."""

    records: tuple[Record, ...]
    first: Answer
    second: Answer
    prob: float  # that the first is better: 1, 0, or 1/2 for a tie
    scores: tuple[float, float] | None = None  # of first and second; their gap is the margin

    def reversed(self) -> "Opinion":
        """The same, with the answers changing places."""
        scores = self.scores and self.scores[::-1]
        return Opinion(self.records, self.second, self.first, 1 - self.prob, scores)


@dataclass(frozen=True)
class Conversion:
    """How one kind becomes pairs; its hash goes with every pair."""

    kind: str
    ties: Ties
    held_out: float
    options: dict[str, float] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Names everything that the pairs depend on, besides the records."""
        return sha256_of([VERSION, self.kind, self.ties, self.held_out, self.options])


def answers_of(record: Record) -> list[Answer]:
    """The answers that a record judges."""
    return [
        Answer(name, turns)
        for name, turns in zip(record["completion_ids"], record["completions"], strict=True)
    ]


def exportable(records: Iterable[Record]) -> Iterator[Record]:
    """Without gold records: they test annotators and train nothing."""
    return (record for record in records if not record["gold"])


def opinions_apart(scored: Iterable[Scored], least_gap: float) -> Iterator[Opinion]:
    """Compare answers that were judged one at a time: same prompt, criterion and source.

    Several scores of one answer are averaged. Scores closer than `least_gap` say nothing: nobody
    saw the two answers together and called them equal.
    """
    groups: dict[tuple[str, str, str], dict[str, list[Scored]]] = defaultdict(dict)
    for one in scored:
        (name,) = one.record["completion_ids"]
        groups[_group_of(one.record)].setdefault(name, []).append(one)
    for group in groups.values():
        for ours, theirs in combinations(group.values(), 2):
            scores = (_mean([one.score for one in ours]), _mean([one.score for one in theirs]))
            if abs(scores[0] - scores[1]) >= least_gap:
                records = tuple(one.record for one in (*ours, *theirs))
                (first,), (second,) = answers_of(ours[0].record), answers_of(theirs[0].record)
                yield Opinion(records, first, second, float(scores[0] > scores[1]), scores)


def pairs_of(opinions: Iterable[Opinion], conversion: Conversion) -> list[Preference]:
    """One pair per two answers, prompt, criterion and source, in an order of its own.

    `target_prob` is the mean over the opinions, turned so that `chosen` is the better answer.
    Answers that are the same text make no pair. `group_weight` is the number of opinions, 1 on
    average over the group: the likelihood of the votes, at equal weight per prompt.
    """
    merged: dict[tuple[tuple[str, str, str], str, str], list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        tie = opinion.prob == 0.5
        if opinion.first.turns == opinion.second.turns or (tie and conversion.ties == "drop"):
            continue
        if opinion.first.id > opinion.second.id:
            opinion = opinion.reversed()
        group = _group_of(opinion.records[0])
        merged[group, opinion.first.id, opinion.second.id].append(opinion)
    votes: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for (group, _, _), same in merged.items():
        votes[group].append(len(same))
    pairs = [
        _pair(same, conversion, len(same) / _mean(votes[group]))
        for (group, _, _), same in merged.items()
    ]
    return weighed(
        pair for pair in pairs if conversion.ties == "soft" or pair["target_prob"] != 0.5
    )


def weighed(pairs: Iterable[Preference]) -> list[Preference]:
    """Sorted pairs with group sizes and the weights 1/|P|; call it again after removing pairs."""
    ordered = sorted(pairs, key=lambda pair: (pair["group_id"], pair["pair_id"]))
    sizes = Counter(pair["group_id"] for pair in ordered)
    return [
        pair | {"group_size": sizes[pair["group_id"]], "weight": 1 / sizes[pair["group_id"]]}
        for pair in ordered
    ]


def _group_of(record: Record) -> tuple[str, str, str]:
    return record["prompt_id"], record["criterion"], record["source"]


def _pair(same: Sequence[Opinion], conversion: Conversion, group_weight: float) -> Preference:
    """Merge opinions that all have the smaller id first."""
    prob = _mean([opinion.prob for opinion in same])
    scores = _mean_scores(same)
    better, worse = same[0].first, same[0].second
    if prob < 0.5:
        prob, better, worse = 1 - prob, worse, better
        scores = scores and scores[::-1]
    gap = max(0.0, scores[0] - scores[1]) if scores else 0.0
    by_id = {record["feedback_id"]: record for opinion in same for record in opinion.records}
    records = [by_id[name] for name in sorted(by_id)]
    record = records[0]
    annotators = sorted({record["annotator_id"] for record in records})
    guidelines = {record["guideline_version"] for record in records}
    cluster_id = record["cluster_id"] or record["prompt_id"]
    ids = sorted((better.id, worse.id))
    return {
        "prompt": record["prompt"],
        "chosen": better.turns,
        "rejected": worse.turns,
        "margin": 0.0 if prob == 0.5 else gap,
        "target_prob": prob,
        "weight": 1.0,
        "group_weight": group_weight,
        "group_id": "|".join(_group_of(record)),
        "group_size": 1,
        "pair_id": sha256_of([record["prompt_id"], ids, record["criterion"]]),
        "prompt_id": record["prompt_id"],
        "cluster_id": cluster_id,
        "chosen_id": better.id,
        "rejected_id": worse.id,
        "criterion": record["criterion"],
        "feedback_kind": conversion.kind,
        "feedback_ids": [record["feedback_id"] for record in records],
        "annotator_ids": annotators,
        "n_annotators": len(annotators),
        "agreement": _agreement(same),
        "noise_prob": None,
        "score_chosen": scores and scores[0],
        "score_rejected": scores and scores[1],
        "rule_id": record.get("rule_id"),
        "split": split_of(cluster_id, conversion.held_out),
        "converter": f"{conversion.kind}/{VERSION}",
        "converter_config_sha256": conversion.sha256,
        "guideline_version": guidelines.pop() if len(guidelines) == 1 else None,
        "created_at": max(record["created_at"] for record in records),
    }


def _mean_scores(same: Sequence[Opinion]) -> tuple[float, float] | None:
    scores = [opinion.scores for opinion in same if opinion.scores is not None]
    if not scores:
        return None
    return _mean([first for first, _ in scores]), _mean([second for _, second in scores])


def _agreement(same: Sequence[Opinion]) -> float | None:
    """The share of opinions for the commonest of better, worse and tie; None for one opinion."""
    counts = Counter(opinion.prob for opinion in same)
    return max(counts.values()) / len(same) if len(same) > 1 else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
