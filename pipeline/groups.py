"""Preference pairs in token ids, grouped so that each answer goes through the model once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from align.data.batches import Item, fingerprint
from align.data.chat import encode
from align.data.errors import DataError, UserError
from align.data.messages import sha256_of
from align.pipeline import ranks
from align.pipeline.config import RunConfig
from align.pipeline.progress import note
from align.pipeline.texts import Texts
from align.reward.annotators.noise import smoothed

GRADED = ("question", "rule")  # kinds that judge each answer by itself, on a scale of 0 to 1
RANKED = ("ranking", "best_of")  # kinds in which one person saw all the answers at once

Preference = dict[str, Any]
"""A row of the preference table."""


@dataclass(frozen=True)
class Pair:
    """Two answers of a group, by their place in it."""

    chosen: int
    rejected: int
    target_prob: float
    """P(chosen is better) by the votes; 0.5 is a tie."""
    learnt_prob: float
    """The same, smoothed by how likely the label is wrong; what training reads."""
    margin: float
    """0 unless people are certain: it asks for more than the sign of a preference."""
    weight: float
    """Weights of a group sum to its group_weight."""
    row: Preference
    """The row of the preference table, for provenance."""


@dataclass(frozen=True)
class Choice:
    """One answer that was put before others, by their places in the group."""

    winner: int
    candidates: list[int]
    """The winner and those it was put before."""
    weight: float


@dataclass(frozen=True)
class Group:
    """The answers to one prompt that were compared by one criterion."""

    texts: Texts
    pairs: list[Pair]
    choices: list[Choice]
    """What training reads in place of the pairs, under `rm.rankings`; else empty."""
    qualities: dict[int, float] = field(default_factory=dict)
    """What people said of single answers, 0 bad to 1 good, by place; for the auxiliary head."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, self.texts.whole))

    def item(self, packing: bool) -> Item:
        """What it asks of a micro-batch."""
        return Item(len(self.texts), self.longest, self.texts.tokens if packing else None)


def encode_groups(
    rows: Sequence[Preference], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> tuple[list[Group], list[Group]]:
    """Training and held-out groups.

    An answer that does not fit `data.max_length` leaves its group, and the weights of the pairs
    that remain are scaled so that the group keeps its weight.
    """
    grouped: dict[str, list[Preference]] = defaultdict(list)
    for row in rows:
        grouped[row["group_id"]].append(row)
    splits: dict[str, list[Group]] = {"train": [], "test": []}
    lost = 0
    for members in grouped.values():
        _check_whole(members)
        group = _encode_group(members, tokenizer, config)
        lost += len(members) - len(group.pairs)
        if group.pairs:
            splits[members[0]["split"]] += _cut(group, config)
    if lost and ranks.is_main():
        note(f"{lost} pairs left out: an answer passes data.max_length ({config.data.max_length})")
    for split, words in (("train", "train on"), ("test", "hold out")):
        if not splits[split]:
            raise UserError(
                f"no preference pair is left to {words}: {len(rows)} pairs in all, {lost} of them "
                f"longer than data.max_length ({config.data.max_length}) tokens. Give more "
                "feedback, a larger data.max_length, or another data.held_out "
                f"({config.data.held_out})"
            )
    return splits["train"], splits["test"]


def _check_whole(members: list[Preference]) -> None:
    """A part of a group would weigh less than others, and teach another loss."""
    first = members[0]
    if len(members) != first["group_size"]:
        raise DataError(
            f"rm/pairs.parquet: group {first['group_id']} has {len(members)} of its "
            f"{first['group_size']} pairs, so it was broken across files: put its rows together, "
            "or convert the feedback again"
        )


def fingerprint_of(groups: Sequence[Group]) -> str:
    """Names all that training reads of the groups, in their order."""
    tokens = fingerprint(
        (ids for group in groups for ids in group.texts.prompts),
        (ids for group in groups for ids in group.texts.responses),
    )
    pairs = [
        [pair.chosen, pair.rejected, pair.learnt_prob, pair.margin, pair.weight]
        for group in groups
        for pair in group.pairs
    ]
    return sha256_of([tokens, pairs])


def _encode_group(
    members: list[Preference], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> Group:
    places: dict[str, int] = {}
    texts = Texts([], [])
    too_long: set[str] = set()
    for row in members:
        for side in ("chosen", "rejected"):
            answer_id = row[f"{side}_id"]
            if answer_id in places or answer_id in too_long:
                continue
            encoded = encode(tokenizer, row["prompt"], row[side])
            if len(encoded.prompt_ids) + len(encoded.completion_ids) > config.data.max_length:
                too_long.add(answer_id)
                continue
            places[answer_id] = len(texts)
            texts.prompts.append(encoded.prompt_ids)
            texts.responses.append(encoded.completion_ids)
    kept = [row for row in members if not {row["chosen_id"], row["rejected_id"]} & too_long]
    whole = sum(row["weight"] for row in members)
    left = sum(row["weight"] for row in kept)
    pairs = [
        Pair(
            chosen=places[row["chosen_id"]],
            rejected=places[row["rejected_id"]],
            target_prob=row["target_prob"],
            learnt_prob=smoothed(row["target_prob"], row["noise_prob"] or 0.0),
            margin=row["margin"] if row["target_prob"] == 1 else 0.0,
            weight=row["weight"] * row["group_weight"] * whole / left,
            row=row,
        )
        for row in kept
    ]
    return Group(texts, pairs, _choices(pairs, config.rm.rankings), _qualities(pairs))


def _qualities(pairs: list[Pair]) -> dict[int, float]:
    """Scores by questionnaire or rule; a failed gate may lie below all scores, and is 0."""
    found: dict[int, float] = {}
    for pair in pairs:
        for side, place in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            score = pair.row[f"score_{side}"]
            if pair.row["feedback_kind"] in GRADED and score is not None:
                found[place] = min(1.0, max(0.0, score))
    return found


def _choices(pairs: list[Pair], rankings: str) -> list[Choice]:
    """What was ranked, as choices of like weight; none where pairs are learnt, or people disagree.

    Each answer was put before those it beats: tied ones never compete. `best_of` keeps the choice
    of those that none beats.
    """
    ranked = all(
        pair.row["feedback_kind"] in RANKED and pair.target_prob in (0.5, 1) for pair in pairs
    )
    if rankings == "pairs" or not ranked:
        return []
    beaten: dict[int, list[int]] = defaultdict(list)
    for pair in pairs:
        if pair.target_prob == 1:
            beaten[pair.chosen].append(pair.rejected)
    losers = {place for places in beaten.values() for place in places}
    winners = [place for place in beaten if rankings == "plackett_luce" or place not in losers]
    whole = sum(pair.weight for pair in pairs)
    return [Choice(place, [place, *beaten[place]], whole / len(winners)) for place in winners]


def _cut(group: Group, config: RunConfig) -> list[Group]:
    """Parts of a group that fit a micro-batch; pairs keep their weights and so the loss.

    Choices need all of their candidates, so a group of choices stays whole.
    """
    budget = config.train.micro_batch_tokens
    if group.choices or group.item(config.rm.packing).size(group.longest) <= budget:
        return [group]
    most = max(2, budget // group.longest)
    parts: list[list[Pair]] = [[]]
    answers: set[int] = set()
    for pair in group.pairs:
        both = {pair.chosen, pair.rejected}
        if len(answers | both) > most:
            parts.append([])
            answers = set()
        parts[-1].append(pair)
        answers |= both
    return [_part(group, pairs) for pairs in parts]


def _part(group: Group, pairs: list[Pair]) -> Group:
    """A group with only the answers that its pairs need."""
    needed = sorted({place for pair in pairs for place in (pair.chosen, pair.rejected)})
    place = {old: new for new, old in enumerate(needed)}
    texts = Texts(
        [group.texts.prompts[old] for old in needed],
        [group.texts.responses[old] for old in needed],
    )
    moved = [
        replace(pair, chosen=place[pair.chosen], rejected=place[pair.rejected]) for pair in pairs
    ]
    qualities = {place[old]: x for old, x in group.qualities.items() if old in place}
    return Group(texts, moved, [], qualities)
