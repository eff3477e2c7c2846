"""Names are cut for tables and plots, never where they differ."""

from rich.cells import cell_len

from align.pipeline.short_names import short_names


def test_names_that_fit_stay_as_they_are() -> None:
    assert short_names(["ann", "bob@example.org", "ann"]) == ["ann", "bob@example.org", "ann"]
    assert short_names([]) == []


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert short_names(["begin" + "x" * 90 + "end"], 13) == ["beginx…xxxend"]


def test_a_difference_anywhere_in_long_names_is_kept() -> None:
    for place in range(0, 298, 7):
        names = ["x" * place + digit + "x" * (299 - place) for digit in "123456789"]
        labels = short_names(names, 20)
        assert [digit in label for digit, label in zip("123456789", labels, strict=True)] == 9 * [
            True
        ]
        assert max(map(cell_len, labels)) <= 20


def test_a_name_differs_from_those_most_like_it() -> None:
    """Some differ in the beginning, two of them in the middle only."""
    middle = "x" * 100
    names = [f"ann{middle}1{middle}", f"ann{middle}2{middle}", f"bob{middle}1{middle}"]
    labels = short_names(names, 20)
    assert labels == ["annxxx…xxx1xx…xxxxxx", "annxxx…xxx2xx…xxxxxx", "bobxxxxxx…xxxxxxxxx"]


def test_wide_letters_take_two_columns_and_none_is_cut_in_half() -> None:
    label = short_names(["标注员来自北京研究所" * 9], 12)[0]
    assert label == "标注…究所" and cell_len(label) <= 12


def test_controls_are_escaped_before_the_name_is_cut() -> None:
    assert short_names(["a\x1b[31m" + "b" * 90], 21) == [r"a\x1b[31mb…bbbbbbbbbb"]
