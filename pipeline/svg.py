"""SVG from matplotlib that takes its colours and its font from the page, light or dark.

matplotlib draws with sentinel colours; each one becomes a CSS variable of the page afterwards.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from warnings import catch_warnings, filterwarnings

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GRID = "#010101", "#020202"
SERIES = [f"#0{digit}0{digit}0{digit}" for digit in "3456789a"]
CSS_COLOURS = {INK: "var(--ink)", GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}

STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """One figure of the report."""

    title: str
    svg: Markup
    key: Sequence[str] = ()
    """What the numbers 1, 2, ... on its axes stand for."""


def draw_plot(
    title: str,
    description: str,
    draw: Callable[[Axes], None],
    height: float = 2.8,
    key: Sequence[str] = (),
) -> Plot:
    """Let `draw` fill one pair of axes; `description` is what a screen reader says.

    A plot is 4.6 wide, and `height` is in the same unit: inches, before the page scales it.
    """
    buffer = BytesIO()
    # The salt keeps the ids of clip paths apart between the plots of one page.
    with rc_context(STYLE | {"svg.hashsalt": title}), catch_warnings():  # type: ignore[arg-type]
        # Texts stay texts, and the page's fonts have more glyphs than matplotlib's.
        filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(4.6, height))
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Plot(title, _for_the_page(buffer.getvalue().decode(), description), key)


def _for_the_page(svg: str, description: str) -> Markup:
    """Drop what only a file of its own needs, and hand the colours and the font to the page."""
    svg = re.sub(r"^.*?<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for sentinel, variable in CSS_COLOURS.items():
        svg = svg.replace(sentinel, variable)
    # Safe as it is: matplotlib escapes the texts that it draws.
    label = f'<svg role="img" aria-label="{escape(description)}" '
    return Markup(svg.replace("<svg ", label, 1))
