"""Rubrics: those that ship say the right thing, and a bad one says where it is bad."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from align.data.errors import ConfigError
from align.reward.judge.rubric import SHIPPED, PromptClass, Rubric, load_rubric

NAMES = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
GOOD = """\
id: polite
version: "1"
criterion: helpful
instruction: Is it polite?
shows_prompt: false
options:
  - id: polite
    text: It is.
    rewards: {harmful: 0, benign: 1.0, unknown: 1}
  - id: rude
    text: It is not.
    rewards: {harmful: 0, benign: -1, unknown: -1}
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A rubric file with this text."""

    def write(text: str) -> Path:
        path = tmp_path / "polite.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def reward(rubric: Rubric, option: str, prompt_class: PromptClass) -> float:
    (found,) = [one for one in rubric.options if one.id == option]
    return found.rewards[prompt_class]


@pytest.mark.parametrize("name", NAMES)
def test_the_rubrics_that_ship_load_by_name(name: str) -> None:
    assert load_rubric(name).id == name


def test_the_wheel_carries_the_rubrics(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    (pattern,) = project["tool"]["setuptools"]["package-data"]["align.reward.judge"]
    carried = {file.stem for file in (root / "reward" / "judge").glob(pattern)}
    assert carried == set(NAMES) >= {"refusal", "helpfulness", "honesty"}


def test_a_rubric_of_ones_own_is_read_from_a_file(write: Write) -> None:
    rubric = load_rubric(write(GOOD))
    assert [option.id for option in rubric.options] == ["polite", "rude"]
    assert reward(rubric, "rude", "benign") == -1


def test_refusing_is_right_after_harmful_requests_and_wrong_after_safe_ones() -> None:
    rubric = load_rubric("refusal")
    assert reward(rubric, "refusal", "harmful") > 0 > reward(rubric, "refusal", "benign")
    assert reward(rubric, "refusal", "harmful") > reward(rubric, "poor_refusal", "harmful")
    assert reward(rubric, "safe_answer", "benign") > 0


def test_refusing_everything_scores_badly_over_harmful_and_safe_requests() -> None:
    rubric = load_rubric("refusal")
    table = {
        ("harmful", "refuse"): reward(rubric, "refusal", "harmful"),
        ("harmful", "comply"): reward(rubric, "disallowed", "harmful"),
        ("benign", "refuse"): reward(rubric, "refusal", "benign"),
        ("benign", "comply"): reward(rubric, "safe_answer", "benign"),
    }
    always_refuse = table["harmful", "refuse"] + table["benign", "refuse"]
    always_comply = table["harmful", "comply"] + table["benign", "comply"]
    discerning = table["harmful", "refuse"] + table["benign", "comply"]
    best = max(table.values())
    assert discerning == 2 * best
    assert always_refuse <= 0 and always_comply <= 0
    assert table["benign", "refuse"] == min(table.values())  # over-refusal counts as fully wrong


def test_wrong_and_sure_scores_below_abstaining_and_that_below_right() -> None:
    rubric = load_rubric("honesty")
    for prompt_class in ("harmful", "benign", "unknown"):
        right, abstains, unsure, sure = (
            option.rewards[prompt_class]
            for name in ("right", "abstains", "wrong_but_unsure", "wrong_and_sure")
            for option in rubric.options
            if option.id == name
        )
        assert right > abstains > unsure > sure


def test_asking_for_what_is_missing_scores_above_a_guess() -> None:
    rubric = load_rubric("helpfulness")
    assert reward(rubric, "clarifies", "benign") > reward(rubric, "guesses", "benign")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("criterion: helpful", "criterion: nice", "3: criterion: must be one of overall, helpful"),
        ("criterion: helpful\n", "", "1: criterion: is missing"),
        ('version: "1"', "version: 1", "2: version: must be a valid string, not 1"),
        ("shows_prompt", "show_prompt", "5: show_prompt: unknown key; did you mean shows_prompt?"),
        ("unknown: 1}", "unknwon: 1}", "9: options.0.rewards.unknwon: must be 'harmful', 'ben"),
        (", unknown: 1}", "}", "9: options.0.rewards: no reward for unknown: give a number"),
        ("benign: 1.0", "benign: .inf", "9: options.0.rewards.benign: must be a finite number"),
        ("benign: -1", "benign: bad", "12: options.1.rewards.benign: must be a valid number"),
        ("id: rude", "id: polite", "6: options: two options have the id 'polite'"),
        ("It is not.", "It is.", "6: options: two options have the text 'It is.'"),
        ("id: rude", "id: Very rude", "10: options.1.id: must match"),
        ("instruction: Is it polite?", "instruction: ''", "4: instruction: "),
    ],
)
def test_a_mistake_in_a_rubric_is_one_line_with_its_place(
    write: Write, old: str, new: str, complaint: str
) -> None:
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_rubric(path)
    lines = str(caught.value).splitlines()
    assert any(line.startswith(f"{path}:{complaint}") for line in lines)


def test_a_rubric_with_one_option_or_more_than_the_alphabet_is_refused(write: Write) -> None:
    head, first = GOOD.split("options:\n")[0], GOOD.split("options:\n")[1].split("  - id: rude")[0]
    for count in (1, 27):
        options = "".join(
            first.replace("id: polite", f"id: o{i}").replace("It is.", f"It is {i}.")
            for i in range(count)
        )
        with pytest.raises(ConfigError, match=f"must be 2 to 26 options, found {count}"):
            load_rubric(write(head + "options:\n" + options))


@pytest.mark.parametrize("text", ["", "- 1\n", "id: [\n", "id: a\nid: b\n"])
def test_a_file_that_is_no_rubric_is_one_line(write: Write, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^\S+polite.yaml:\d+: .+$"):
        load_rubric(write(text))


def test_an_unknown_name_lists_what_ships() -> None:
    with pytest.raises(ConfigError, match="no such rubric; those that ship are helpfulness, hon"):
        load_rubric("refusals")
