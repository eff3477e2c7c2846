"""Which parts of a reward may be combined, and how the config says it."""

from pathlib import Path
from typing import Any

import pytest

from align.data.errors import ConfigError
from align.pipeline.inputs import check_inputs
from align.pipeline.loading import load_config


def write(folder: Path, mix: str) -> Path:
    file = folder / "mix.yaml"
    file.write_text(f"name: mix\nreward:\n  mix:\n{mix}")
    return file


def test_parts_have_names_weights_and_paths_relative_to_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "    - {kind: model, models: [rm-1, rm-2], uncertainty: 0.5}\n"
        "    - {kind: function, name: polite, function: polite, file: rules.py, least: 1}\n"
        "    - {kind: length, longest: 40, weight: 0.01}\n",
    )
    model, function, length = load_config(file).reward.mix
    assert model.models == (tmp_path / "rm-1", tmp_path / "rm-2")
    assert function.file == tmp_path / "rules.py" and function.least == 1
    assert [part.label for part in (model, function, length)] == ["model", "polite", "length"]
    with pytest.raises(Exception, match=r"reward\.mix\.0\.models: .*rm-1 does not exist"):
        check_inputs(load_config(file), ("ppo",))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("{kind: function}", "kind: function needs `function`"),
        ("{kind: judge, rubric: honesty}", "kind: judge needs `judge`"),
        ("{kind: model, longest: 3}", "kind: model takes no `longest`"),
        ("{kind: length, longest: 3, url: 'http://a'}", "kind: length takes no `url`"),
        ("{kind: model, uncertainty: 1}", "needs an ensemble"),
        ("{kind: server, url: 'ftp://a'}", "must be like http://"),
        ("{kind: server, url: 'http://u:secret@a'}", "must hold no password"),
        ("{kind: taste}", "mix.0.kind"),
        ("{kind: model}\n    - {kind: model}", "two parts are called model"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused_at_load(
    tmp_path: Path, part: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, f"    - {part}\n"))
    assert message in str(caught.value) and "secret" not in str(caught.value)


def test_without_parts_the_reward_model_speaks_alone(tmp_path: Path) -> None:
    config: Any = load_config("demo")
    assert config.reward.mix == ()
