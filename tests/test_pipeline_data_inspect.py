"""`align data`: what it prints and writes, and that a stage uses what was built."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedTokenizerBase

from align.data.errors import DataError
from align.pipeline.data_inspect import build, inspect
from align.pipeline.data_page import token_texts
from align.pipeline.instruction_statistics import NUMBERS
from align.pipeline.loading import load_config

Finished = Callable[..., str]


def config_file(folder: Path) -> Path:
    rows = [{"instruction": f"说 {i} <b>", "output": f"好 {i}"} for i in range(80)]
    (folder / "zh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    (folder / "books.txt").write_text("<|endoftext|>".join(f"Story {i}. " * 9 for i in range(40)))
    asked = [
        {"prompt": "说 4 <B>"},
        {"prompt": "Story 5. Story 5. Story 5. Story 5. Story 5. Story 5. Story"},
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    asked = [{"prompt": f"说 {i}  <b>"} for i in (3, 4, 5)]  # 3 is held out, by SFT too
    (folder / "ppo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    pair = {"prompt": "说 5 <b>", "chosen": "好", "rejected": "Story 5. " * 7}
    (folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    config = {
        "name": "x",
        "data": {
            "instructions": [
                {"format": "alpaca", "path": "zh.jsonl", "license": "MIT"},
                {"format": "text", "path": "books.txt"},
                {"format": "demo", "rows": 60},
            ],
            "evaluation": [{"format": "prompt_completion", "path": "test.jsonl"}],
            "prompts": [{"format": "prompt_completion", "path": "ppo.jsonl"}],
            "feedback": [{"format": "trl", "path": "pairs.jsonl"}],
            "held_out": 0.2,
            "max_length": 128,
            "max_prompt_length": 64,
        },
        "rollout": {"max_new_tokens": 32},
        "mixture": {
            "instructions": {"rows": 100, "sources": [{"name": "books", "token_share": 0.2}]}
        },
    }
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_inspect_shows_what_sft_will_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, look = tmp_path / "run", tmp_path / "look"
    inspect(load_config(config_file(tmp_path)), run, look)
    printed = capsys.readouterr().out
    assert "100 rows to learn" in printed and "MIT" in printed
    assert not run.exists(), "inspect leaves the run directory alone"
    report = json.loads((look / "inspect.json").read_text())
    zh, books, demo = report["sources"]
    assert (zh["source"], zh["duplicates"]) == ("zh", 1)
    assert demo["templates"] == {"demo": {name: demo[name] for name in NUMBERS}}
    tokens = sum(source["tokens"] for source in report["sources"])
    assert books["tokens"] / tokens == pytest.approx(0.2, abs=0.02)
    assert 0 < demo["diversity"]["dissimilarity"] < 1 and books["diversity"]["distinct_1"] > 0
    shared = {
        (one["first"], one["second"]): (one["same"], one["near"])
        for one in report["overlap"]["prompts"]
    }
    assert shared["SFT", "evaluation test"] == (1, 2)
    assert shared["SFT", "PPO"] == (2, 2) and shared["SFT", "PPO held out"] == (0, 0)
    assert shared["SFT", "reward model"] == shared["reward model", "PPO"] == (1, 1)
    seen = report["overlap"]["contaminated"]
    assert seen["evaluation test"] == {"texts": 2, "long": 1, "found": 1}
    assert seen["PPO held out"] == {"texts": 1, "long": 0, "found": 0}
    assert "reward model held out" not in seen, "its only prompt is learnt"
    page = (look / "inspect.html").read_text()
    assert 'class="masked"' in page and 'class="learnt"' in page
    assert "说" in page and "<b>" not in page, "texts are escaped"


def test_what_was_built_is_used_and_not_built_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = load_config(config_file(tmp_path)), tmp_path / "run"
    build(config, run)
    rows = run / "data" / "train.arrow"
    assert str(rows) in capsys.readouterr().out
    built = rows.stat().st_mtime_ns
    inspect(config, run, None)
    build(config, run)
    assert rows.stat().st_mtime_ns == built
    assert not (run / "data" / "sources").exists()


def test_a_config_without_instructions_is_one_line(tmp_path: Path, finished: Finished) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\n")
    printed = finished("data", "build", "--config", str(path), code=2)
    assert printed.count("\n") == 1 and "data.instructions" in printed


def test_pieces_of_text_are_whole_letters_and_together_the_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = "床前 moon 😀\n\nend"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_texts(tokenizer, ids)
    assert "".join(piece for piece, _ in pieces) == text
    assert sum(count for _, count in pieces) == len(ids)
    assert ("床", 3) in pieces and ("😀", 4) in pieces and ("m", 1) in pieces


def test_inspect_shows_the_splits_that_a_build_froze(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that joins a frozen cluster by its wording is counted where the stage will have it."""
    path, run, look = config_file(tmp_path), tmp_path / "run", tmp_path / "look"
    config = yaml.safe_load(path.read_text())
    config["mixture"]["instructions"] |= {"dedup": "near"}
    path.write_text(yaml.safe_dump(config))
    build(load_config(path), run)
    config["data"]["held_out"] = 0.6
    path.write_text(yaml.safe_dump(config))
    frozen = (run / "data" / "splits.jsonl").read_bytes()
    inspect(load_config(path), run, look)
    assert (run / "data" / "splits.jsonl").read_bytes() == frozen
    seen = json.loads((look / "inspect.json").read_text())
    build(load_config(path), run)
    built = json.loads((run / "data" / "build.json").read_text())
    assert seen["notes"] and [source | {"diversity": 0} for source in seen["sources"]] == [
        source | {"diversity": 0} for source in built["sources"]
    ]


def test_inspect_counts_the_bad_rows_and_keeps_them_where_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, look = config_file(tmp_path), tmp_path / "look"
    with (tmp_path / "zh.jsonl").open("a") as file:
        file.write('{"instruction": 3}\n')
    inspect(load_config(path), tmp_path / "run", look)
    assert f"1 rows rejected; they are in {look / 'rejected.jsonl'}" in capsys.readouterr().out
    assert "zh.jsonl" in (look / "rejected.jsonl").read_text()
    with (tmp_path / "zh.jsonl").open("a") as file:
        file.write('{"instruction": 3}\n' * 20)
    with pytest.raises(DataError, match=r"all of them are in (\S*)\)") as error:
        inspect(load_config(path), tmp_path / "run", look)
    assert str(look / "rejected.jsonl") in str(error.value)
    assert len((look / "rejected.jsonl").read_text().splitlines()) == 21
    with pytest.raises(DataError) as error:
        inspect(load_config(path), tmp_path / "run", None)
    assert "rejected.jsonl" not in str(error.value)


def test_an_out_that_is_a_file_is_one_line(tmp_path: Path, finished: Finished) -> None:
    path = config_file(tmp_path)
    printed = finished("data", "inspect", "--config", str(path), "--out", str(path), code=2)
    assert printed.count("\n") == 1 and "--out" in printed
