"""The page about feedback, and its plots, say in words what the numbers say."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from rich.cells import cell_len

from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.schemas import FEEDBACK, Record, completed
from align.pipeline.feedback_page import write_feedback_page
from align.pipeline.feedback_plots import (
    RatingInterval,
    agreement_matrix,
    biases,
    rating_intervals,
    votes_per_annotator,
)
from align.pipeline.short_names import short_names
from align.reward.feedback_statistics import Agreement, Missing, Rate, statistics_of

HOSTILE = "<script>alert(1)</script> & $x_$ \u202e\u05e9\u05dc\u05d5\u05dd\u202c \u4f60"


class Page(HTMLParser):
    """Checks that tags nest, and collects their names and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def vote(place: int, outcome: str, annotator: str = "ann", **changes: Any) -> Record:
    made = header(
        "comparison",
        f"f{place}",
        user(f"Hi {place % 5}"),
        [assistant("long answer"), assistant("short")],
        source="ours",
        license=None,
        annotator_id=annotator,
        guideline_version="1",
    ) | {"outcome": outcome}
    return completed(made | changes, FEEDBACK["comparison"])


def page_of(folder: Path, records: list[Record], **more: Any) -> Page:
    found = statistics_of(records)
    plots = [
        agreement_matrix(found.agreement),
        biases(found.longer_won, found.first_won),
        *([votes_per_annotator(found.by_annotator)] if records else []),
    ]
    write_feedback_page(folder / "x.html", "study", found, plots, **more)
    html = (folder / "x.html").read_text("utf-8")
    assert not re.search(r'(src|href)="(?!#)|@import|url\((?!#)', html)  # nothing from elsewhere
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_the_page_shows_counts_rates_and_plots(tmp_path: Path) -> None:
    votes = [vote(i, "aab"[i % 3], f"w{i % 2}", display_order=[0, 1]) for i in range(30)]
    page = page_of(tmp_path, [*votes, vote(99, "tie", duration_s=7.0)])
    text = " ".join(page.text.split())
    assert "Records 31 on 5 prompts" in text and "Annotators 3 10.3 records each" in text
    assert "Longer won 66.7 % of 30 decided pairs" in text
    assert "First shown won 66.7 % of 30 decided comparisons" in text
    assert "Ties 3.2 % of 31 pairs" in text and "Median time 7 s" in text
    assert "w0 15 48.4 %" in text
    assert {"svg", "figure", "table"} <= page.tags


def test_names_are_shown_as_text(tmp_path: Path) -> None:
    records = [vote(0, "a", HOSTILE, source=HOSTILE), vote(5, "b", "other")]
    share = {"first": "SFT", "second": HOSTILE, "texts": 2, "same": 1, "near": 1}
    seen = {HOSTILE: {"texts": 3, "long": 2, "found": 1}}
    overlap = {"run": 13, "prompts": [share], "contaminated": seen}
    page = page_of(tmp_path, records, overlap=overlap)
    shown = HOSTILE.replace("\u202e", r"\u202e").replace("\u202c", r"\u202c")
    assert "script" not in page.tags and shown in page.text
    html = (tmp_path / "x.html").read_text("utf-8")
    assert html.count(f'title="{escape(shown)}"') >= 2  # of the names, which are cut in the tables
    assert page.text.count(short_names([shown])[0]) >= 2
    assert "\u202e" not in page.text


def test_control_characters_in_names_are_escaped_everywhere_on_a_page(tmp_path: Path) -> None:
    records = [vote(0, "a", "ann\x1b[31m\n"), vote(5, "b", "b\x9bob"), vote(10, "b", "b\x9bob")]
    html = (page_of(tmp_path, records), (tmp_path / "x.html").read_text("utf-8"))[1]
    assert "\x1b" not in html and "\x9b" not in html
    assert html.count(r"ann\x1b[31m\n") >= 3 and r"b\x9bob 2" in html
    plot = rating_intervals([RatingInterval("p\x1b", 1, 0, 2)], "Elo")
    assert r"p\x1b is ahead" in plot.title and "\x1b" not in plot.svg


def test_a_page_of_nothing_is_a_page(tmp_path: Path) -> None:
    text = " ".join(page_of(tmp_path, []).text.split())
    assert "Records 0 on 0 prompts" in text and "First shown won — there are no comparisons" in text
    assert "nan" not in text


def test_long_names_in_a_table_are_cut_and_whole_in_their_title(tmp_path: Path) -> None:
    names = [f"{'x' * 150}{digit}{'y' * 150}" for digit in "12"]
    page_of(tmp_path, [vote(i, "a", names[i % 2]) for i in range(4)])
    html = (tmp_path / "x.html").read_text("utf-8")
    rows = dict(re.findall(r'<th scope="row" dir="auto" title="(.*?)">(.*?)</th>', html))
    assert set(names) <= set(rows) and rows["comparison"] == "comparison"
    assert rows[names[0]] != rows[names[1]] and len(rows[names[0]]) <= 40


def test_a_long_table_names_the_busiest_and_counts_the_rest(tmp_path: Path) -> None:
    records = [vote(i, "a", f"worker-{i // 2:03}") for i in range(60)]
    text = page_of(tmp_path, records).text
    assert "worker-019" in text and "and 10 more with 20 records" in text


@pytest.mark.parametrize(
    ("second", "title"),
    [
        (RatingInterval("B", 900, 850, 950), "A is ahead with 1100"),
        (
            RatingInterval("B", 1000, 900, 1060),
            "A is ahead with 1100, but the intervals of 1 of 1 others reach into its own",
        ),
    ],
)
def test_the_best_player_is_named_with_how_sure_that_is(second: RatingInterval, title: str) -> None:
    plot = rating_intervals([second, RatingInterval("A", 1100, 1050, 1150)], "Elo")
    assert plot.title == title
    assert "A 1100, 1050 to 1150; B" in plot.svg  # the best first


def test_nobody_is_ahead_where_all_are_level() -> None:
    level = [RatingInterval(name, 1000, 900, 1100) for name in "AB"]
    assert rating_intervals(level, "Elo").title == "2 of 2 players are level with 1000"


def test_one_player_alone_is_drawn() -> None:
    assert rating_intervals([RatingInterval("A", 0.0, 0.0, 0.0)], "Elo").title == (
        "A is ahead with 0"
    )


def test_sixty_players_have_a_taller_plot_and_long_names_are_cut() -> None:
    name = "begin" + "x" * 50 + "end"
    many = [RatingInterval(f"{name}{i}", i, i - 1, i + 1) for i in range(60)]
    tall, short = rating_intervals(many, "Elo").svg, rating_intervals(many[:5], "Elo").svg
    heights = [float(re.findall(r'viewBox="0 0 \S+ (\S+)"', svg)[0]) for svg in (tall, short)]
    assert heights[0] > 4 * heights[1]
    assert "beginxxxxxxxx…xxxxxxxxend59" in re.sub(r">\s+", ">", tall).split("</svg>")[0]


MATRIX = Agreement(
    ["s-w-1", "s-w-2", "s-w-3"],
    [[0, 10, 10], [10, 0, 0], [10, 0, 0]],
    [[0, 9, 3], [9, 0, 0], [3, 0, 0]],
    3,
    Rate(20, 0.6, 0.4, 0.8),
)


def test_the_matrix_names_who_agrees_least_and_leaves_out_who_never_met() -> None:
    plot = agreement_matrix(MATRIX)
    assert plot.title == "Two annotators agree on 60% of what both judged; s-w-3 (3) least, on 30%"
    assert "1 and 2 90% of 10; 1 and 3 30% of 10." in plot.svg
    assert plot.svg.count("n = 10") == 4 and list(plot.key) == ["s-w-1", "s-w-2", "s-w-3"]


NAMES = {
    "addresses": [f"annotator.{chr(97 + i)}lexandra@research.example.org" for i in range(20)],
    "long": [f"{'x' * 150}{i:02}{'y' * 150}" for i in range(20)],
    "Chinese": [
        f"标注员来自北京研究所第三数据标注小组成员编号{i:02}的那一位同事" for i in range(20)
    ],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_matrix_of_twenty_names_keeps_its_size_and_a_list_tells_them_apart(
    names: list[str], tmp_path: Path
) -> None:
    page = page_of(tmp_path, [vote(0, "ab"[i % 2], name) for i, name in enumerate(names)])
    html = (tmp_path / "x.html").read_text("utf-8")
    figure = html[html.index("Two annotators agree") : html.index("</figure>")]
    entries = re.findall(r'<li title="(.*?)"><bdi>(.*?)</bdi>', figure)
    assert [full for full, _ in entries] == sorted(names) and "ol" in page.tags
    shown = [label for _, label in entries]
    assert len(set(shown)) == 20 and max(map(cell_len, shown)) <= 28
    cells = re.findall(r'<path d="M (\S+) \S+ \nL (\S+) ', figure)
    widest = max(abs(float(right) - float(left)) for left, right in cells)
    assert widest > 0.8 * 4.6 * 72 / 20  # of the picture's width in points
    drawn = figure[figure.index("<svg") : figure.index("</svg>")]
    assert not [name for name in names if name[:8] in re.sub('aria-label=".*?"', "", drawn)]


def test_the_title_of_the_matrix_speaks_of_all_and_says_who_is_drawn() -> None:
    """25 annotators of whom the 20 busiest always agree, and the others never."""
    records = [vote(i, "a", f"w{i // 5:02}") for i in range(100)]  # 5 prompts each
    records += [vote(i, "ab"[w % 2], f"late{w}") for i in (3, 4) for w in range(5)]
    found = statistics_of(records).agreement
    assert found.annotators_in_all == 25 and not [x for x in found.annotators if "late" in x]
    assert isinstance(found.everybody, Rate) and found.everybody.share < 1
    title = agreement_matrix(found).title
    assert title.startswith(f"Two annotators agree on {found.everybody.share:.0%} of what both")
    assert "100%" not in title.split(";")[0] and "of the 20 busiest of 25, drawn here" in title


def test_a_large_matrix_has_no_numbers_in_its_cells() -> None:
    count = 12
    n = [[0 if a == b else 5 for b in range(count)] for a in range(count)]
    alike = Rate(330, 1.0, 0.99, 1.0)
    plot = agreement_matrix(Agreement([f"w{i}" for i in range(count)], n, n, count, alike))
    assert plot.title == "Two annotators agree on 100% of what both judged"
    assert "n = 5" not in plot.svg and "larger: more judged by both" in plot.svg


def test_biases_are_said_in_words_where_they_are_known() -> None:
    longer, first = Rate(100, 0.67, 0.57, 0.75), Rate(50, 0.5, 0.37, 0.63)
    assert biases(longer, first).title == (
        "The longer answer won 67% of the time, the one shown first won 50% of the time"
    )
    why = Missing("both are equally long")
    assert biases(why, first).title == "The one shown first won 50% of the time"
    assert biases(why, Missing("no comparisons")).title == (
        "No bias can be seen: both are equally long; no comparisons"
    )


@pytest.mark.parametrize(
    ("counts", "title"),
    [
        ({"a": 6, "b": 3, "c": 2}, "1 of 3 annotators gave half of the judgements"),
        ({"a": 4, "b": 3, "c": 2, "d": 2}, "2 of 4 annotators gave half of the judgements"),
        ({"a": 3, "b": 3}, "2 annotators gave 3 judgements each"),
        ({"a": 1500}, "One annotator gave all 1,500 judgements"),
    ],
)
def test_votes_say_how_evenly_the_work_was_shared(counts: dict[str, int], title: str) -> None:
    assert votes_per_annotator(counts).title == title
