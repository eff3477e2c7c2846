"""Chat with a real, tiny model: at a terminal, through a pipe, and when there is no model."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from align.data.errors import UserError
from align.pipeline.chat import Manner, chat, model_folder, obey
from align.pipeline.conversation import Conversation

LETTERS = "abcdefghijklmnopqrstuvwxyz.,!?"
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}.{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant.{% endif %}"
)
CONTEXT = 96


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose SFT model speaks letters; its weights are random."""
    run = tmp_path_factory.mktemp("runs") / "demo"
    folder = run / "sft" / "final"
    tokenizer = Tokenizer(
        models.WordLevel(
            {letter: i for i, letter in enumerate(["<eos>", "<unk>", " ", *LETTERS])}, "<unk>"
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    return run


@pytest.fixture(scope="module")
def model(run_dir: Path) -> Conversation:
    return Conversation(str(run_dir / "sft" / "final"), Manner())


@pytest.fixture
def conversation(model: Conversation) -> Conversation:
    model.reset()
    model.manner = Manner(temperature=1.0)
    torch.manual_seed(1)
    return model


def pipe(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))


def test_the_answer_is_streamed_to_stdout_as_it_is_remembered(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conversation.ask("hello") == 0
    answer = conversation.answer()
    assert capsys.readouterr().out == answer + "\n"
    assert conversation._messages[-1] == {"role": "assistant", "content": answer}


def test_the_likeliest_words_come_at_temperature_zero(conversation: Conversation) -> None:
    conversation.manner = Manner(temperature=0.0)
    answers = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        conversation.reset()
        conversation.ask("hello")
        answers.add(conversation.answer())
    assert len(answers) == 1


def test_words_are_drawn_in_the_manner_asked_for(conversation: Conversation) -> None:
    def answer(manner: Manner) -> str:
        torch.manual_seed(1)
        conversation.reset()
        conversation.manner = manner
        conversation.ask("hello")
        return conversation.answer()

    likeliest = answer(Manner(temperature=0.0))
    assert answer(Manner(temperature=5.0, top_k=1)) == likeliest
    assert answer(Manner(temperature=5.0, top_p=1e-6)) == likeliest
    free = answer(Manner(temperature=1.0))
    assert free != likeliest
    assert answer(Manner(temperature=1.0, stop=(free[3:6],))) == free[: free.index(free[3:6]) + 3]


def test_no_answer_is_shorter_than_asked_for(conversation: Conversation) -> None:
    conversation.manner = Manner(min_new_tokens=20)
    conversation.ask("hello")
    conversation.answer()
    read = conversation._tokenizer(conversation._messages[-1]["content"])["input_ids"]
    assert len(read) >= 15  # special tokens are not shown


def test_the_model_reads_the_earlier_turns(conversation: Conversation) -> None:
    conversation.ask("one")
    answer = conversation.answer()
    conversation.ask("two")
    read = conversation._tokenizer.decode(conversation._prompt_ids)
    assert isinstance(read, str)
    for part in ("one", answer[:5], "two"):
        assert part.replace(" ", "") in read.replace(" ", "")


def test_the_oldest_turns_are_dropped_when_the_context_is_full(
    conversation: Conversation,
) -> None:
    dropped = 0
    for _ in range(4):
        dropped += conversation.ask("a" * 20)
        conversation.answer()
        assert len(conversation._prompt_ids) <= CONTEXT // 2
    assert dropped >= 2


def test_a_message_longer_than_the_context_is_refused_and_changes_nothing(
    conversation: Conversation,
) -> None:
    conversation.ask("a")
    before = list(conversation._messages)
    with pytest.raises(UserError, match=r"this message has \d+ tokens; the model reads at most 48"):
        conversation.ask("a" * 200)
    assert conversation._messages == before


@pytest.mark.parametrize(
    ("command", "told", "temperature"),
    [
        ("/temperature 0.2", "temperature 0.2", 0.2),
        ("/temperature 0", "temperature 0", 0.0),
        ("/temperature hot", "not 'hot'", 1.0),
        ("/temperature -1", "not '-1'", 1.0),
        ("/temperature nan", "not 'nan'", 1.0),
        ("/temperature", "not ''", 1.0),
        ("/reset", "a new conversation", 1.0),
        ("/rest", "no command /rest", 1.0),
    ],
)
def test_commands(conversation: Conversation, command: str, told: str, temperature: float) -> None:
    assert told in obey(conversation, command)
    assert conversation.manner == Manner(temperature=temperature)


def test_reset_forgets_the_conversation(conversation: Conversation) -> None:
    conversation.ask("hello")
    obey(conversation, "/reset")
    assert conversation._messages == []


def test_piped_lines_are_answered_until_the_end(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, b"hello\n\n   \n/temperature 0\n" + b"a" * 200 + b"\n\xff\nbye")
    chat(run_dir)
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 3
    assert "temperature 0" in shown.err
    assert "this message has" in shown.err


def test_quit_leaves_at_once(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, b"/quit\nhello\n")
    chat(run_dir)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_prompt_and_ends_at_control_d(run_dir: Path) -> None:
    main, terminal = pty.openpty()
    code = "import sys; from pathlib import Path; from align.pipeline.chat import chat; "
    process = subprocess.Popen(
        [sys.executable, "-c", code + "chat(Path(sys.argv[1]))", str(run_dir)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(terminal)
    with process:
        assert "/quit or Ctrl-D leaves" in read_until_prompt(main)
        os.write(main, b"hello\n")
        read_until_prompt(main)
        os.write(main, b"\x04")
    os.close(main)
    assert process.returncode == 0


def read_until_prompt(terminal: int) -> str:
    shown = b""
    while not shown.endswith(b"> "):
        shown += os.read(terminal, 65536)
    return shown.decode()


def test_the_newest_model_of_a_run_is_taken(tmp_path: Path) -> None:
    for stage in ("sft", "ppo"):
        (tmp_path / stage / "final").mkdir(parents=True)
        (tmp_path / stage / "final" / "config.json").write_text("{}")
    assert model_folder(tmp_path) == tmp_path / "ppo" / "final"
    assert model_folder(tmp_path / "sft" / "final") == tmp_path / "sft" / "final"


def test_a_run_without_a_model_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"align run --stage sft --config F --run-dir {tmp_path}"):
        chat(tmp_path)


def test_a_missing_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        chat(tmp_path / "nowhere")


def test_a_reward_model_does_not_chat(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="a reward model scores answers and writes none"):
        chat(tmp_path)


def test_a_broken_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        chat(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
