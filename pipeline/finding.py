"""What a check of `align doctor` found, and what mends it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What one check found, and what mends it."""

    what: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""
