"""What the HTML pages share: how a template becomes one self-contained file, and its filters."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from align.data.atomic import written_whole
from align.data.messages import printable
from align.pipeline.short_names import short_names

MAX_CHARACTERS = 2000
"""Longer texts are cut on a page, so that it stays small enough to mail."""

UNKNOWN = "—"


@dataclass
class Headline:
    """A number in large type."""

    label: str
    value: str
    hint: str


def write_page(path: Path, template: str, **values: Any) -> None:
    """A template of this folder, filled in, as a file that appears whole or not at all."""
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": _shown, "printable": printable, "short_names": short_names}
    html = environment.get_template(template).render(values)
    with written_whole(path) as file:
        # The name of a directory may hold bytes that are not UTF-8.
        file.write(html.encode("utf-8", errors="replace"))


def percent(share: float | None) -> str:
    """A share with one decimal, or a dash where it is not known."""
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def _source(name: str) -> str:
    return resources.files("align.pipeline").joinpath(name).read_text("utf-8")


def _shown(text: str) -> str:
    """A text as the page shows it: cut, and with its control characters visible."""
    cut = text[:MAX_CHARACTERS]
    if len(cut) < len(text):
        cut += f" … ({len(text) - len(cut)} more characters)"
    # HTML has no form for most of these; U+2400 and on are their pictures.
    return "".join(
        chr(0x2400 + ord(letter)) if ord(letter) < 32 and letter not in "\n\t" else letter
        for letter in cut
    )
