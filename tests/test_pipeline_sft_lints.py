"""Every lint finds its mistake, and a clean set gives no finding."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from align.data.exchanges import Instruction
from align.data.messages import assistant, user
from align.data.mixture_config import Mixture, MixtureConfig
from align.pipeline import sft_lints
from align.pipeline.config import SFT_PRESETS, RunConfig, SFTConfig
from align.pipeline.doctor import examine
from align.pipeline.finding import Finding
from align.pipeline.sft_check import findings
from align.policy.config import LoRAConfig, ModelConfig

CLEAN: dict[str, Any] = {
    "source": "a",
    "rows": 1000,
    "held_out": 100,
    "too_long": 10,
    "truncated": 10,
    "duplicates": 2,
    "tokens": 500,
    "tokens_of_rows": 50_000,
    "learnt": 20_000,
    "labels": {"t": {"yes": 500, "no": 500}},
}
OVERLAP: dict[str, Any] = {
    "prompts": [
        {"first": "SFT", "second": "SFT held out", "texts": 900, "same": 0, "near": 3},
        {"first": "SFT", "second": "evaluation x", "texts": 900, "same": 0, "near": 0},
        {"first": "PPO", "second": "evaluation x", "texts": 900, "same": 0, "near": 0},
        {"first": "SFT", "second": "PPO", "texts": 900, "same": 400, "near": 500},
        {"first": "PPO", "second": "PPO held out", "texts": 900, "same": 0, "near": 90},
        {"first": "SFT", "second": "PPO held out", "texts": 900, "same": 0, "near": 50},
    ],
    "contaminated": {
        "SFT held out": {"texts": 100, "long": 90, "found": 40},
        "evaluation x": {"texts": 200, "long": 200, "found": 1},
    },
}
CONFIG = RunConfig(name="x")


def report(**changes: Any) -> dict[str, Any]:
    """Two sources, the first with changes."""
    return {"sources": [CLEAN | changes, CLEAN | {"source": "b"}], "overlap": OVERLAP}


def of_report(made: dict[str, Any], config: RunConfig = CONFIG) -> list[Finding]:
    found: list[Finding] = []
    for one in (
        sft_lints.mask(made),
        sft_lints.length(made, config),
        sft_lints.duplicates(made, config),
        sft_lints.leaks(made),
        sft_lints.imbalance(made),
    ):
        found += one
    return found


def test_a_clean_report_gives_no_finding() -> None:
    assert of_report(report()) == []


@pytest.mark.parametrize(
    ("changes", "what", "said"),
    [
        ({"learnt": 2000}, "mask", "a: only 4.0% of the tokens are learnt"),
        ({"truncated": 60}, "length", "a: 60 of 1000 answers are cut"),
        ({"too_long": 70}, "length", "a: 70 of 1170 prompts are too long"),
        ({"duplicates": 11}, "duplicates", "a: 11 of 1000 rows are copies"),
        ({"tokens": 50_000}, "imbalance", "a: 99% of all tokens"),
        ({"labels": {"t": {"yes": 900, "no": 80}}}, "imbalance", "t: the largest class has 900"),
    ],
)
def test_a_lint_of_the_rows_finds_its_mistake_and_only_that(
    changes: dict[str, Any], what: str, said: str
) -> None:
    (found,) = of_report(report(**changes))
    assert (found.what, found.status) == (what, "warn")
    assert said in found.found and found.fix


def test_copies_are_no_mistake_where_the_mixture_leaves_them_out() -> None:
    mixture = MixtureConfig(instructions=Mixture(dedup="exact"))
    deduplicated = CONFIG.model_copy(update={"mixture": mixture})
    assert of_report(report(duplicates=500), deduplicated) == []


@pytest.mark.parametrize("row", [0, 1, 2])
def test_prompts_that_are_learnt_and_evaluated_are_a_leak(row: int) -> None:
    made = json.loads(json.dumps(report()))
    made["overlap"]["prompts"][row]["near"] = 50
    (found,) = of_report(made)
    assert found.what == "leak" and "50 prompts of" in found.found
    assert ("dedup: near" in str(found.fix)) == (row == 0), "which leaves evaluation sets alone"


def test_evaluation_texts_in_training_are_a_leak() -> None:
    made = json.loads(json.dumps(report()))
    made["overlap"]["contaminated"]["evaluation x"]["found"] = 20
    (found,) = of_report(made)
    assert found.found == "training has 13 words in a row of 20 of evaluation x"


def test_a_template_that_leaves_out_a_message_is_found(tokenizer: PreTrainedTokenizerBase) -> None:
    assert not list(sft_lints.template(tokenizer))
    tokenizer.chat_template = "{% for m in messages[-1:] %}{{ m['content'] }}{% endfor %}"
    (found,) = sft_lints.template(tokenizer)
    assert found.found == "the chat template leaves out the system message"


def test_a_template_that_ends_no_answer_is_found(tokenizer: PreTrainedTokenizerBase) -> None:
    assert not list(sft_lints.eos(tokenizer))
    tokenizer.eos_token = "</s>"
    (found,) = sft_lints.eos(tokenizer)
    assert "ends no answer with EOS, </s>" in found.found


def rows(*texts: str) -> Iterator[Instruction]:
    for text in texts:
        yield Instruction(user(text), assistant("a"), "s", "t", "MIT", "x", "g")


def test_a_tokenizer_that_drops_letters_is_found(
    tokenizer: PreTrainedTokenizerBase, shared: Path
) -> None:
    assert not list(sft_lints.letters(tokenizer, rows("1+1=2 床前", "ﬁ Ü\n\t")))
    dropping = AutoTokenizer.from_pretrained(shared / "data" / "models" / "tinystories-656k")
    assert not list(sft_lints.letters(dropping, rows("Once upon a time.")))
    (found,) = sft_lints.letters(dropping, rows("1+1=2", "床前"))
    assert "loses 4 letters of the data, such as + = 前 床" in found.found


@pytest.mark.parametrize(
    ("rate", "lora", "parameters", "found"),
    [
        (2e-3, None, 760_000, False),
        (0.5, None, 760_000, True),
        (0.5, None, 0, False),
        (1e-5, None, 7 * 10**9, False),
        (1e-3, None, 135 * 10**6, True),
        (2e-4, LoRAConfig(), 135 * 10**6, False),
        (2e-2, LoRAConfig(), 135 * 10**6, True),
    ],
)
def test_a_learning_rate_of_pre_training_is_found(
    rate: float, lora: LoRAConfig | None, parameters: int, found: bool
) -> None:
    config = CONFIG.model_copy(
        update={"sft": SFTConfig(learning_rate=rate), "model": ModelConfig(lora=lora)}
    )
    assert bool(list(sft_lints.learning_rate(config, parameters))) == found


def test_doctor_says_what_is_wrong_with_the_instructions_of_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [f"Tell me of the number {i} and of its {i % 7} friends, please." for i in range(150)]
    data = [{"prompt": text, "completion": f"{i} has friends."} for i, text in enumerate(texts)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*data, *data[:40]]))
    source = {"format": "prompt_completion", "path": "a.jsonl"}
    others = {
        "prompts": [{"format": "demo", "rows": 5}],
        "feedback": [{"format": "simulated", "rows": 5}],
    }
    config = {"name": "x", "data": {"instructions": [source], **others}}
    Path("x.yaml").write_text(json.dumps(config))
    assert examine("x.yaml") == 0
    printed = capsys.readouterr().out
    assert "rows are copies" in printed and "dedup: exact" in printed
    Path("a.jsonl").write_text("".join(json.dumps({"prompt": 3}) + "\n"))
    assert examine("x.yaml") == 2
    assert "a.jsonl:1: prompt:" in capsys.readouterr().out


def test_doctor_checks_the_stages_that_a_config_has_data_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Ask {i}", "completion": f"Say {i}"} for i in range(60)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"format": "prompt_completion", "path": "a.jsonl"}
    Path("x.yaml").write_text(json.dumps({"name": "x", "data": {"instructions": [source]}}))
    assert examine("x.yaml", ["sft.learning_rate=0.5"]) == 0
    printed = capsys.readouterr().out
    assert "x.yaml, with data for sft" in printed and "sft.learning_rate 0.5 is high" in printed
    Path("y.yaml").write_text(json.dumps({"name": "y"}))
    assert examine("y.yaml") == 2
    assert "names no data" in capsys.readouterr().out


def test_a_clean_set_gives_no_finding_from_its_file_on(tmp_path: Path) -> None:
    chance = random.Random(0)
    words = [f"word{i}" for i in range(400)]
    data = [
        {
            "prompt": " ".join(chance.choices(words, k=8)),
            "completion": " ".join(chance.choices(words, k=8)),
        }
        for _ in range(200)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    source = {"format": "prompt_completion", "path": str(path)}
    config = RunConfig.model_validate({"name": "x", "data": {"instructions": [source]}})
    assert list(findings(config, tmp_path)) == []


@pytest.mark.parametrize("name", SFT_PRESETS)
def test_a_preset_fills_in_what_is_not_given(name: str) -> None:
    model: dict[str, Any] = {"lora": {}} if name == "lora" else {}
    made = RunConfig.model_validate({"name": "x", "model": model, "sft": {"preset": name}})
    assert {key: getattr(made.sft, key) for key in SFT_PRESETS[name]} == SFT_PRESETS[name]
    again = RunConfig.model_validate_json(made.model_dump_json())
    assert again == made
    own = {"preset": name, "learning_rate": 3e-6}
    assert SFTConfig.model_validate(own).learning_rate == 3e-6
    parameters = {"full": 7 * 10**9, "lora": 7 * 10**9, "small": 760_000}[name]
    assert not list(sft_lints.learning_rate(made, parameters)), "it is below pre-training's"


@pytest.mark.parametrize(
    ("preset", "lora", "line"),
    [
        ("lora", None, "sft.preset: lora does not go without model.lora"),
        ("full", {}, "sft.preset: full does not go with adapters: use lora"),
    ],
)
def test_a_preset_for_another_kind_of_training_is_refused(
    preset: str, lora: dict[str, Any] | None, line: str
) -> None:
    values = {"name": "x", "model": {"lora": lora}, "sft": {"preset": preset}}
    with pytest.raises(ValueError, match=line):
        RunConfig.model_validate(values)
