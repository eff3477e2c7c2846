"""What the rule classifier reads: a conversation, and whether its last answer breaks a rule.

One classifier knows all rules, because it reads their text. Source: Glaese et al. 2022 (Sparrow,
arXiv:2209.14375), the rule-conditional classifier; the question's wording is ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from align.data.messages import Message, assistant, user
from align.data.schemas import Record
from align.data.splits import Split, split_of
from align.reward.feedback.rules import UNSURE


@dataclass(frozen=True)
class RuleCase:
    """An answer that somebody judged by a rule."""

    question: list[Message]
    rule_id: str
    severity: int
    """1 clearly follows the rule, 5 clearly breaks it; never 3, which says nothing."""
    split: Split


def question(prompt: list[Message], answer: str, rule_text: str) -> list[Message]:
    """The conversation with the rule behind it."""
    asked = f"Does the last answer break this rule? {rule_text}"
    return [*prompt, *assistant(answer), *user(asked)]


def cases_of(
    records: Iterable[Record], splits: Mapping[str, Split], held_out: float
) -> list[RuleCase]:
    """The rule judgements among the records; those of which people were unsure are left out.

    `splits` has those of the preference table by prompt_id; a prompt without pairs is split as it
    would have been there.
    """
    return [
        RuleCase(
            question(
                record["prompt"], record["completions"][0][-1]["content"], record["rule_text"]
            ),
            record["rule_id"],
            record["severity"],
            splits.get(record["prompt_id"])
            or split_of(record["cluster_id"] or record["prompt_id"], held_out),
        )
        for record in records
        if record["kind"] == "rule" and record["severity"] != UNSURE and not record["gold"]
    ]


def rule_texts(records: Iterable[Record]) -> dict[str, str]:
    """Rule id -> its text, the last one read where they differ."""
    return {
        record["rule_id"]: record["rule_text"] for record in records if record["kind"] == "rule"
    }
