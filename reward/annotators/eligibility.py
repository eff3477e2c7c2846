"""Who may annotate, by what they declare of themselves: education, region and languages.

A profile is personal. Nothing but the annotator_id leaves this module: profiles are no part of any
record or table, and do not show what they hold when they are printed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Profile:
    """What an annotator has declared; None or empty where they did not."""

    annotator_id: str
    education: str | None = field(default=None, repr=False)
    region: str | None = field(default=None, repr=False)
    languages: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class Requirement:
    """What a task asks for; None asks for nothing."""

    education: frozenset[str] | None = None  # one of these
    region: frozenset[str] | None = None  # one of these
    languages: frozenset[str] = frozenset()  # all of these


def is_eligible(profile: Profile, requirement: Requirement) -> bool:
    """Whether the profile meets the whole requirement. What was not declared meets none."""
    return (
        (requirement.education is None or profile.education in requirement.education)
        and (requirement.region is None or profile.region in requirement.region)
        and requirement.languages <= profile.languages
    )


def eligible_ids(profiles: Iterable[Profile], requirement: Requirement) -> list[str]:
    """The ids of those who are eligible, in order."""
    return sorted(one.annotator_id for one in profiles if is_eligible(one, requirement))
