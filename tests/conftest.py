"""Fixtures that several test files share."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from align.pipeline.metrics import read_metrics
from align.policy.attention import use_attention_by_text

# As in pipeline/launch.py, for the tests that import DeepSpeed without it.
if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

ROOT = Path(__file__).parent.parent
VOCABULARY = 300

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and human feedback, which lie beside the repository and are not part of it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, the folder of real models and feedback, which is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Callable[[str], PretrainedConfig]:
    """The config of a model of two layers: `llama`, `gpt2` (with dropout 0.1), `qwen2`, or
    `gpt_neo`, whose second layer sees 8 tokens back."""

    def make(family: str) -> PretrainedConfig:
        # Weights far larger than usual, so that no two tokens are nearly as likely.
        rest: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
        rest |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        rest |= {"max_position_embeddings": 128}
        rest |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        if family == "gpt2":
            return GPT2Config(**rest)
        if family == "gpt_neo":
            layers: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "window_size": 8}
            del rest["num_hidden_layers"], rest["num_attention_heads"]
            return GPTNeoConfig(attention_types=[[["global", "local"], 1]], **layers, **rest)
        rest |= {"num_key_value_heads": 2, "intermediate_size": 64}
        return LlamaConfig(**rest) if family == "llama" else Qwen2Config(**rest)

    return make


@pytest.fixture(scope="session")
def tiny_causal(
    tiny_config: Callable[[str], PretrainedConfig],
) -> Callable[[str], PreTrainedModel]:
    """A causal model of a family with random weights, the same at every call."""

    def make(family: str) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(tiny_config(family))
        use_attention_by_text(model.eval())
        return model

    return make


@pytest.fixture(scope="session")
def tiny_scalar(
    tiny_config: Callable[[str], PretrainedConfig],
) -> Callable[[str], PreTrainedModel]:
    """The same body with one output per text, as a reward model has."""

    def make(family: str) -> PreTrainedModel:
        config = tiny_config(family)
        config.num_labels = 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
        use_attention_by_text(model.eval())
        return model

    return make


@pytest.fixture(scope="session")
def process_group() -> Iterator[None]:
    """One for all tests: DeepSpeed remembers the first that it met."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def one_rank(process_group: None) -> Iterator[None]:
    """This process as the only rank, as `align` runs when train.ranks is 1."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
            patch.setenv(name, value)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models are faster so, far more where other work runs beside the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    """A token for every byte, one for `\\n\\n`, and the marks of three chat formats."""
    marks = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
    marks += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    vocabulary = {token: place for place, token in enumerate([*marks, *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>"
    )
    made.chat_template = CHATML
    return made


@pytest.fixture(scope="session")
def align() -> Callable[..., subprocess.Popen[str]]:
    """Starts the `align` command in a process of its own."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from align.pipeline.cli import main; main()", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that a test can signal all that the command started
        )

    return start


@pytest.fixture(scope="session")
def finished(align: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """What `align` prints until it ends with the given exit code."""

    def finish(*arguments: str, code: int = 0) -> str:
        with align(*arguments) as process:
            printed, _ = process.communicate(timeout=280)
        assert process.returncode == code, printed
        return printed

    return finish


@pytest.fixture(scope="session")
def timeless() -> Callable[[Path, str], list[dict[str, float]]]:
    """The metrics of a stage that do not depend on the machine's speed."""

    def read(run: Path, stage: str) -> list[dict[str, float]]:
        return [
            {
                name: value
                for name, value in row.items()
                if not name.startswith("time/") and name not in ("tokens_per_second", "mfu")
            }
            for row in read_metrics(run / stage / "metrics.jsonl")
        ]

    return read


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, finished: Callable[..., str]) -> Path:
    """A finished run of configs/tiny.yaml; tests look at it and leave it as it is."""
    run: Path = tmp_path_factory.mktemp("runs") / "tiny"
    finished("run", "--config", "tiny", "--run-dir", str(run))
    return run
