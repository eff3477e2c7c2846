"""From sources in files to the rows that SFT sees."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.config import DataConfig
from align.data.errors import ConfigError, DataError, UserError
from align.data.instruction_config import InstructionSource, Templates
from align.data.mixture_config import Mixture, MixtureConfig, SourceShare
from align.pipeline.config import RunConfig
from align.pipeline.instruction_build import IGNORED
from align.pipeline.loading import load_config
from align.pipeline.run_directory import RunDirectory
from align.pipeline.sft_data import built, read_splits

Build = Callable[..., tuple[Path, dict[str, Any]]]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chats(path: Path, count: int, **more: Any) -> InstructionSource:
    rows = [
        {"prompt": f"{path.stem} {i}?", "completion": f"Yes, {i}."} | more for i in range(count)
    ]
    return InstructionSource(format="prompt_completion", path=write(path, rows))


def texts(path: Path, count: int) -> InstructionSource:
    rows = [{"text": f"Once {i} " + "there was a story of many words. " * 3} for i in range(count)]
    return InstructionSource(format="text", path=write(path, rows))


def config_of(
    *sources: InstructionSource, mixture: Mixture | None = None, **data: Any
) -> RunConfig:
    data = {"held_out": 0.2, "max_length": 192, "max_prompt_length": 96} | data
    return RunConfig(
        name="x",
        data=DataConfig(instructions=sources, **data),
        mixture=MixtureConfig(instructions=mixture),
    )


@pytest.fixture
def build(tmp_path: Path, one_rank: None, tokenizer: PreTrainedTokenizerBase) -> Build:
    """Builds into a run directory; the folder and the report."""

    def make(config: RunConfig) -> tuple[Path, dict[str, Any]]:
        folder = built(config, RunDirectory(tmp_path / "run"), tokenizer)
        return folder, json.loads((folder / "build.json").read_text())

    return make


def rows_in(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """Prompt and answer of every training row, as text."""
    with pa.memory_map(str(folder / "train.arrow")) as source:
        rows = pa.ipc.open_stream(source).read_all().to_pylist()
    found = []
    for row in rows:
        start = sum(label == IGNORED for label in row["labels"])
        assert row["labels"][start:] == row["input_ids"][start:]
        prompt, answer = row["input_ids"][:start], row["input_ids"][start:]
        found.append((str(tokenizer.decode(prompt)), str(tokenizer.decode(answer))))
    return found


def test_without_a_mixture_every_row_is_learnt_once_in_its_order(
    tmp_path: Path, build: Build, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = config_of(chats(tmp_path / "a.jsonl", 20), chats(tmp_path / "b.jsonl", 10))
    folder, report = build(config)
    rows = rows_in(folder, tokenizer)
    assert len(rows) == report["rows"] and report["rows"] + report["held_out"] == 30
    names = [prompt.split("user\n")[1].split("?")[0] for prompt, _ in rows]
    assert names == sorted(names, key=lambda name: (name[0], int(name[2:])))
    train, held_out = read_splits(config, RunDirectory(tmp_path / "run"), tokenizer)
    assert len(train) == len(rows) and set(held_out) == {"a", "b"}
    assert sum(map(len, held_out.values())) == report["held_out"]
    assert str(tokenizer.decode(held_out["a"][0].completion_ids)).endswith("<|im_end|>")


def test_a_mixture_draws_as_planned_and_reports_what_it_drew(
    tmp_path: Path, build: Build, tokenizer: PreTrainedTokenizerBase
) -> None:
    shares = (
        SourceShare(name="few", quality=50, max_epochs=3),
        SourceShare(name="books", token_share=0.3),
    )
    config = config_of(
        chats(tmp_path / "few.jsonl", 12),
        chats(tmp_path / "many.jsonl", 300),
        texts(tmp_path / "books.jsonl", 80),
        mixture=Mixture(rows=600, sources=shares, eval_rows=30),
    )
    folder, report = build(config)
    rows = rows_in(folder, tokenizer)
    few, many, books = report["sources"]
    kinds = Counter(prompt.split("user\n")[-1].split()[0] for prompt, _ in rows)
    assert len(rows) == 600 and kinds["few"] == few["draws"] == 3 * few["used"]
    assert kinds["many"] == many["draws"] and kinds["<s>"] == books["draws"]
    tokens = Counter[str]()
    for prompt, answer in rows:
        kind = prompt.split("user\n")[-1].split()[0]
        tokens[kind] += len(tokenizer(prompt + answer, add_special_tokens=False)["input_ids"])
    assert tokens["<s>"] / tokens.total() == pytest.approx(0.3, abs=0.01)
    for kind, source in (("few", few), ("many", many), ("<s>", books)):
        assert tokens[kind] == source["tokens"], "those that were written, not an estimate"
    assert report["held_out"] == 30 and set(few["templates"]) == {"prompt_completion"}


def test_the_rows_are_built_once_and_again_when_an_input_changes(
    tmp_path: Path, build: Build
) -> None:
    config = config_of(chats(tmp_path / "a.jsonl", 30), mixture=Mixture())
    folder, first = build(config)
    made = (folder / "train.arrow").stat().st_mtime_ns
    _, second = build(config)
    assert second == first and (folder / "train.arrow").stat().st_mtime_ns == made
    chats(tmp_path / "a.jsonl", 31)
    (folder / "cache-0123.arrow").touch()  # rows that `datasets` packed from the old ones
    _, third = build(config)
    assert not (folder / "cache-0123.arrow").exists()
    assert third["made_from"] != first["made_from"] and third["sources"][0]["rows"] > 0
    other = config.model_copy(update={"mixture": MixtureConfig(instructions=Mixture(rows=5))})
    assert build(other)[1]["rows"] == 5


def test_the_rows_are_built_again_when_the_file_of_their_templates_changes(
    tmp_path: Path, build: Build, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = write(tmp_path / "a.jsonl", [{"x": f"{i}"} for i in range(30)])
    wording = {"templates": [{"name": "a", "text": "ask {{ x }} ||| {{ x }}"}], "input": "x"}
    (tmp_path / "t.yaml").write_text(json.dumps(wording))
    templates = Templates(file=tmp_path / "t.yaml")
    config = config_of(InstructionSource(format="labelled", path=path, templates=templates))
    build(config)
    (tmp_path / "t.yaml").write_text(json.dumps(wording).replace("ask", "tell"))
    folder, _ = build(config)
    assert all("tell" in prompt for prompt, _ in rows_in(folder, tokenizer))


@pytest.mark.parametrize("name", ["train.arrow", "held_out.arrow", "build.json"])
@pytest.mark.parametrize("content", [None, "{broken", "{}", "[]"])
def test_what_is_missing_or_broken_of_a_build_is_made_again(
    tmp_path: Path, build: Build, name: str, content: str | None
) -> None:
    config = config_of(chats(tmp_path / "a.jsonl", 30))
    folder, before = build(config)
    if content is None:
        (folder / name).unlink()
    elif name == "build.json":
        (folder / name).write_text(content)
    (folder / ".train.arrow.k1ll3d").touch()  # of a build that was killed
    (folder / "build.json").touch()
    _, after = build(config)
    assert after == before and (folder / name).is_file()
    if content is None or name == "build.json":
        assert not list(folder.glob(".*"))


def test_bad_rows_within_the_threshold_are_told_also_of_a_build_that_is_used_again(
    tmp_path: Path, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    source = chats(tmp_path / "a.jsonl", 30)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"prompt": 3}\n')
    for _ in range(2):
        _, report = build(config_of(source))
        printed = capsys.readouterr().out
        assert report["rejected"] == 1 and "1 rows rejected; they are in " in printed
        assert Path(printed.rpartition("they are in ")[2].split()[0]).is_file()


def test_a_token_share_that_max_epochs_does_not_allow_is_told(
    tmp_path: Path, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    share = SourceShare(name="books", token_share=0.3, max_epochs=2)
    sources = chats(tmp_path / "a.jsonl", 300), texts(tmp_path / "books.jsonl", 6)
    _, report = build(config_of(*sources, mixture=Mixture(sources=(share,))))
    books = report["sources"][1]
    assert books["draws"] == 2 * books["used"]
    assert "books gives" in capsys.readouterr().out and "max_epochs (2)" in report["notes"][0]


def test_where_all_prompts_are_too_long_the_line_says_so(tmp_path: Path, build: Build) -> None:
    long = [{"prompt": "long " * 50 + str(i), "completion": "b"} for i in range(5)]
    path = write(tmp_path / "long.jsonl", long)
    sources = (
        chats(tmp_path / "a.jsonl", 30),
        InstructionSource(format="prompt_completion", path=path),
    )
    with pytest.raises(UserError, match="long has no row left: 5 of its prompts have more than"):
        build(config_of(*sources, mixture=Mixture()))


def test_a_held_out_share_that_frozen_splits_overrule_is_told(
    tmp_path: Path, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    source = chats(tmp_path / "a.jsonl", 40)
    build(config_of(source, mixture=Mixture(dedup="near")))
    assert "stay in the split" not in capsys.readouterr().out
    _, report = build(config_of(source, mixture=Mixture(dedup="near"), held_out=0.7))
    assert "prompts stay in the split that data/splits.jsonl froze" in report["notes"][0]
    assert report["held_out"] < 20


def test_rows_that_do_not_fit_are_cut_at_the_answer_or_left_out(
    tmp_path: Path, build: Build, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [{"prompt": f"{i}", "completion": "a" * (500 if i % 4 == 0 else 5)} for i in range(40)]
    rows += [{"prompt": "long " * 50 + str(i), "completion": "b"} for i in range(5)]
    path = write(tmp_path / "a.jsonl", rows)
    config = config_of(InstructionSource(format="prompt_completion", path=path))
    folder, report = build(config)
    assert report["too_long"] == 5 and 0 < report["cut"] <= 10
    assert all(prompt.endswith("assistant\n") for prompt, _ in rows_in(folder, tokenizer))


def test_nothing_left_is_one_line(tmp_path: Path, build: Build) -> None:
    long = [{"prompt": "long " * 50 + str(i), "completion": "b"} for i in range(5)]
    path = write(tmp_path / "a.jsonl", long)
    with pytest.raises(UserError, match="of 5 instructions 0 are left to train on"):
        build(config_of(InstructionSource(format="prompt_completion", path=path)))
    path = write(
        tmp_path / "b.jsonl", [{"prompt": f"{i}", "completion": "b" * 999} for i in range(60)]
    )
    with pytest.raises(UserError, match="every answer passes data"):
        build(config_of(InstructionSource(format="prompt_completion", path=path)))
    with pytest.raises(DataError, match="no good row is left"):
        build(config_of(InstructionSource(format="alpaca", path=path)))
    assert not list((tmp_path / "run" / "data").iterdir()), "nothing half-written stays"


def test_a_mixture_of_unknown_sources_is_one_line(tmp_path: Path) -> None:
    config = {
        "name": "x",
        "data": {"instructions": [{"format": "alpaca", "path": "a.jsonl"}]},
        "mixture": {"instructions": {"sources": [{"name": "b"}]}},
    }
    path = tmp_path / "x.yaml"
    path.write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"no source of data.instructions is called b; there are a"
    ):
        load_config(path)
    config["data"]["instructions"] *= 2  # type: ignore[index]
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"two sources of .* are called a"):
        load_config(path)


@pytest.mark.parametrize(
    ("key", "share"),
    [
        ("instructions", {"quality": 0}),
        ("instructions", {"token_share": 0.5}),
        ("prompts", {"quality": 0}),
    ],
)
def test_a_mixture_whose_weights_sum_to_zero_is_one_line(key: str, share: dict[str, float]) -> None:
    """Also that of PPO's prompts, before SFT and the reward model are trained."""
    config = {
        "name": "x",
        "data": {key: [{"format": "demo", "rows": 5}]},
        "mixture": {key: {"sources": [{"name": "demo", **share}]}},
    }
    with pytest.raises(ValueError, match=rf"mixture.{key}: the weights sum to zero"):
        RunConfig.model_validate(config)


def test_every_turn_of_a_chat_is_learnt_once_after_all_that_came_before(
    tmp_path: Path, build: Build, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Also in a mixture, and all turns of a chat are on one side of the split."""
    rows = []
    for i in range(40):
        turns = [(f"ask {i}-{turn}", f"say {i}-{turn}") for turn in range(3)]
        rows.append(
            {
                "conversations": [
                    {"from": speaker, "value": text}
                    for asked, said in turns
                    for speaker, text in (("human", asked), ("gpt", said))
                ]
            }
        )
    path = write(tmp_path / "chats.jsonl", rows)
    source = InstructionSource(format="sharegpt", path=path, system="Be kind.")
    folder, _ = build(config_of(source, mixture=Mixture(), max_length=512, max_prompt_length=256))
    learnt = {answer: prompt for prompt, answer in rows_in(folder, tokenizer)}
    chats = {answer.split("-")[0].split()[1] for answer in learnt}
    assert 20 < len(chats) < 40 and len(learnt) == 3 * len(chats)
    for name in chats:
        for turn in range(3):
            prompt = learnt[f"say {name}-{turn}<|im_end|>"]
            assert prompt.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user")
            assert prompt.endswith("<|im_start|>assistant\n")
            for other in range(3):
                assert (f"ask {name}-{other}<" in prompt) == (other <= turn)
                assert (f"assistant\nsay {name}-{other}<" in prompt) == (other < turn)


def test_the_caps_of_a_mixture_reach_the_rows(tmp_path: Path, build: Build) -> None:
    rows = [{"prompt": f"{i}", "completion": "y", "task_id": f"t{i % 2}"} for i in range(200)]
    rows += rows[:50]
    path = write(tmp_path / "a.jsonl", rows)
    source = InstructionSource(format="prompt_completion", path=path)
    _, report = build(config_of(source, mixture=Mixture(max_rows_per_task=20, dedup="exact")))
    (entry,) = report["sources"]
    assert {name: of["used"] for name, of in entry["tasks"].items()} == {
        "t0": 20,
        "t1": 20,
    } and report["rows"] == 40
    assert 25 < entry["duplicates"] <= 50
    assert np.isclose(entry["rows"], 200, atol=30)


def test_rows_that_are_nearly_the_same_are_learnt_once(tmp_path: Path, build: Build) -> None:
    words = np.random.default_rng(0).choice([f"w{i}" for i in range(99)], (40, 12))
    rows = [{"prompt": " ".join(row), "completion": "ok " * 20} for row in words]
    rows += [{**row, "completion": "ok " * 20 + "."} for row in rows]
    path = write(tmp_path / "a.jsonl", rows)
    source = InstructionSource(format="prompt_completion", path=path)
    _, report = build(config_of(source, mixture=Mixture(dedup="exact")))
    assert report["rows"] == report["sources"][0]["rows"] == 2 * (40 - report["held_out"] // 2)
    folder, report = build(config_of(source, mixture=Mixture(dedup="near")))
    assert report["rows"] == report["sources"][0]["used"] == report["sources"][0]["rows"] // 2
    frozen = (folder / "splits.jsonl").read_text().splitlines()
    more = np.random.default_rng(1).choice([f"w{i}" for i in range(99)], (40, 12))
    write(path, [*rows, *({"prompt": " ".join(row), "completion": "ok"} for row in more)])
    build(config_of(source, mixture=Mixture(dedup="near")))
    assert (folder / "splits.jsonl").read_text().splitlines()[: len(frozen)] == frozen


def text_loss(model: PreTrainedModel, ids: list[list[int]]) -> torch.Tensor:
    """Mean loss over all tokens but the first of each row."""
    losses = [model(input_ids=torch.tensor([row]), labels=torch.tensor([row])).loss for row in ids]
    return torch.stack(losses).mean()


def after_training(model: PreTrainedModel, folder: Path, held_out: list[list[int]]) -> float:
    """Loss on plain text after fifty steps on the rows of a folder."""
    with pa.memory_map(str(folder / "train.arrow")) as source:
        rows = pa.ipc.open_stream(source).read_all().to_pylist()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(50):
        row = rows[step % len(rows)]
        ids, labels = torch.tensor([row["input_ids"][:64]]), torch.tensor([row["labels"][:64]])
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(text_loss(model, held_out))


def test_plain_text_in_the_mixture_keeps_the_model_good_at_plain_text(
    tmp_path: Path,
    build: Build,
    tokenizer: PreTrainedTokenizerBase,
    tiny_causal: Callable[[str], PreTrainedModel],
    one_thread: None,
) -> None:
    sources = chats(tmp_path / "a.jsonl", 100), texts(tmp_path / "books.jsonl", 60)
    new = [f"Once {i} there was a story of many words." for i in range(900, 905)]
    held_out = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in new]
    losses = {}
    for mix in (False, True):
        shares = (SourceShare(name="books", token_share=0.5),) if mix else ()
        mixture = Mixture(rows=100, sources=shares)
        folder, _ = build(config_of(*sources[: 1 + mix], mixture=mixture))
        losses[mix] = after_training(tiny_causal("llama"), folder, held_out)
    assert losses[True] < losses[False] - 1


@pytest.mark.parametrize("dedup", ["exact", "near"])
def test_a_long_text_is_learnt_whole_and_its_copy_not_at_all(
    tmp_path: Path, build: Build, tokenizer: PreTrainedTokenizerBase, dedup: Any
) -> None:
    letters = np.random.default_rng(0).choice(list("abcdefghijk "), (30, 400))
    long = [{"text": f"{i} " + "".join(row)} for i, row in enumerate(letters)]
    path = write(tmp_path / "a.jsonl", [*long, *({"text": one["text"].upper()} for one in long)])
    source = InstructionSource(format="text", path=path)
    folder, report = build(config_of(source, mixture=Mixture(dedup=dedup)))
    (entry,) = report["sources"]
    assert entry["used"] == report["rows"] == entry["duplicates"] == entry["rows"] // 2
    learnt = sorted(answer for _, answer in rows_in(folder, tokenizer))
    kept = {text.split()[0] for text in learnt if text[0].isdigit()}
    whole = [one["text"] for one in long if one["text"].split()[0] in kept]
    assert len("".join(learnt).replace("<|im_end|>", "")) == sum(map(len, whole))
