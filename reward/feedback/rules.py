"""Rule judgements: of two answers to one prompt, the one that breaks a rule less is better.

Severity goes from 1 (clearly follows) to 5 (clearly breaks); 3 is unsure and says nothing. Each
rule is a criterion of its own, `rule:<id>`. Source: Glaese et al. 2022 (Sparrow); the scale is
ours.
"""

from collections.abc import Iterable

from align.data.schemas import Preference, Record
from align.reward.feedback.pairs import (
    Conversion,
    Scored,
    Ties,
    exportable,
    opinions_apart,
    pairs_of,
)

UNSURE = 3
LEAST_GAP = 1e-9  # any difference of (mean) severities counts


def to_pairs(records: Iterable[Record], ties: Ties, held_out: float) -> list[Preference]:
    """Pairs of answers with different severity; margin = difference / 4. Equal ones make none."""
    scored = (
        Scored(record, (5 - record["severity"]) / 4)
        for record in exportable(records)
        if record["severity"] != UNSURE
    )
    return pairs_of(opinions_apart(scored, LEAST_GAP), Conversion("rule", ties, held_out))
