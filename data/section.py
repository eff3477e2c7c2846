"""What every part of the config is: frozen, and strict about its keys."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the config; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # docs/config.md and the JSON schema show them
    )

    REFUSED: ClassVar[Mapping[str, str]] = {}
    """Keys that one might look for here, and why there are none."""
