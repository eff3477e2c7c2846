"""What there is to tell annotators: the gold items that they judged otherwise than those who know.

Guidelines are learnt in conversation: researchers go with annotators through what they judged, and
say why (Stiennon et al. 2020, arXiv:2009.01325, appendix C). This is the list to go through.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from align.data.schemas import Record
from align.reward.judged_pairs import Item, judged_items, votes_by_item

COPIED = ("annotator_id", "created_at", "feedback_id", "guideline_version", "criterion", "prompt")


def feedback_log(records: Sequence[Record], gold_by: Sequence[str]) -> list[Record]:
    """A row for every two answers of a gold item that were judged side by side and otherwise than
    by most of those in `gold_by`; by annotator, then by time."""
    gold = [one for one in records if one["gold"]]
    known = votes_by_item(one for one in gold if one["annotator_id"] in gold_by)
    right = {item: said for item, votes in known.items() if (said := _majority(votes)) is not None}
    others = [one for one in gold if one["annotator_id"] not in gold_by]
    others.sort(key=lambda one: (one["annotator_id"], one["created_at"], one["feedback_id"]))
    return [row for one in others for row in _rows(one, right)]


def _majority(votes: dict[str, int]) -> int | None:
    """What most say; None where two labels share the first place."""
    (label, most), *rest = Counter(votes.values()).most_common(2)
    return None if rest and rest[0][1] == most else label


def _rows(record: Record, right: dict[Item, int]) -> Iterator[Record]:
    texts = dict(zip(record["completion_ids"], record["completions"], strict=True))
    for item, said in judged_items(record):
        if item in right and said != right[item]:
            low, high = item[2:]
            words = {1: low, 0: "tie", -1: high}
            answers = {"completions": {low: texts[low], high: texts[high]}}
            found = {"said": words[said], "gold_says": words[right[item]]}
            yield {name: record[name] for name in COPIED} | answers | found
