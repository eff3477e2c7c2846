"""Who may annotate, by what they declare of themselves: education, region and languages.

A profile is personal. Nothing but who is eligible leaves this module: profiles are no part of any
record or table, and do not show what they hold when they are printed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from align.data.errors import DataError
from align.data.files import Row, read_rows
from align.reward.annotators.votes import Flags
from align.reward.config import EligibilityConfig

COLUMNS = {"annotator_id", "education", "region", "languages"}


@dataclass(frozen=True)
class Profile:
    """What an annotator has declared; None or empty where they did not."""

    annotator_id: str
    education: str | None = field(default=None, repr=False)
    region: str | None = field(default=None, repr=False)
    languages: frozenset[str] = field(default=frozenset(), repr=False)


def is_eligible(profile: Profile, asked: EligibilityConfig) -> bool:
    """Whether the profile meets all that is asked. What was not declared meets no demand."""
    return (
        (not asked.education or profile.education in asked.education)
        and (not asked.region or profile.region in asked.region)
        and profile.languages.issuperset(asked.languages)
    )


def eligible_only(path: Path, asked: EligibilityConfig) -> Callable[[pa.Table], Flags]:
    """Which records (R) are by people whose profile is eligible, or by no people.

    Who has no profile is not eligible. Raises: DataError if the file is missing or has a bad row.
    """
    profiles = [_profile(path, line, row) for line, row in read_rows(path)]
    names = pa.array([one.annotator_id for one in profiles if is_eligible(one, asked)], pa.string())

    def counted(table: pa.Table) -> Flags:
        person = pc.equal(table["annotator_kind"].cast(pa.string()), "human")
        known = pc.is_in(table["annotator_id"].cast(pa.string()), names)
        flags: Flags = pc.or_(known, pc.invert(person)).to_numpy()
        return flags

    return counted


def _profile(path: Path, line: int, row: Row) -> Profile:
    """Raises: DataError, which names the field and not what is in it."""
    name, languages = row.get("annotator_id"), row.get("languages") or []
    education, region = row.get("education"), row.get("region")
    where = f"{path}:{line}"
    if unknown := sorted(row.keys() - COLUMNS):
        raise DataError(f"{where}: {unknown[0]}: unknown field; use {', '.join(sorted(COLUMNS))}")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: annotator_id: must be text")
    if not all(one is None or isinstance(one, str) for one in (education, region)):
        raise DataError(f"{where}: education, region: must be text or null")
    if not isinstance(languages, list) or not all(isinstance(one, str) for one in languages):
        raise DataError(f"{where}: languages: must be a list of texts")
    return Profile(name, education, region, frozenset(languages))
