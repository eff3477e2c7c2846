"""`align chat`: talk to the model of a run at the terminal, or through a pipe.

    echo "Tell a story about a fox." | align chat runs/demo

Answers go to stdout, everything else to stderr. Ctrl-C stops an answer.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from align.data.errors import UserError

if TYPE_CHECKING:
    from align.pipeline.conversation import Conversation


@dataclass(frozen=True)
class Manner:
    """How the model's words are drawn."""

    temperature: float = 0.7
    """0 always takes the likeliest word."""
    top_k: int = 0
    """Among so many of the likeliest tokens; 0 is all of them."""
    top_p: float = 1.0
    """Among the fewest tokens that hold this much probability."""
    min_new_tokens: int = 0
    """Tokens before which no answer ends."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""


COMMANDS = "/reset forgets the conversation, /temperature X sets it, /quit or Ctrl-D leaves"


def chat(run_dir: Path, manner: Manner | None = None) -> None:
    """Read messages from stdin and print the model's answers until it ends.

    `run_dir` is a run's directory (its PPO model, else its SFT model) or a model's folder.
    Raises UserError when there is no model.
    """
    folder = model_folder(run_dir)
    # Here, so that a missing model is said at once, not after seconds of imports.
    from align.pipeline.conversation import Conversation

    conversation = Conversation(str(folder), manner or Manner())
    interactive = sys.stdin.isatty()
    if interactive:
        _say(f"{folder}\n{COMMANDS}")
    for line in _typed_lines() if interactive else _piped_lines():
        text = line.strip()
        if text == "/quit":
            break
        if text.startswith("/"):
            _say(obey(conversation, text))
        elif text:
            _exchange(conversation, text)


def model_folder(run_dir: Path) -> Path:
    """The folder of the newest model that answers. Raises UserError when there is none."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such directory; give a run directory or a model's folder")
    for folder in (run_dir, run_dir / "ppo" / "final", run_dir / "sft" / "final"):
        if (folder / "config.json").is_file():
            return _refuse_reward_model(folder)
    raise UserError(
        f"{run_dir}: no model in ppo/final or sft/final; make one with "
        f"`align run --stage sft --config F --run-dir {run_dir}`"
    )


def obey(conversation: "Conversation", command: str) -> str:
    """Carry out a command that starts with a slash; returns what to tell the user."""
    name, _, argument = command.partition(" ")
    if name == "/reset":
        conversation.reset()
        return "a new conversation"
    if name != "/temperature":
        return f"no command {name}: {COMMANDS}"
    try:
        temperature = float(argument)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature < math.inf:
        return f"the temperature is a number from 0 (the likeliest word) up, not {argument!r}"
    conversation.manner = replace(conversation.manner, temperature=temperature)
    return f"temperature {temperature:g}"


def _refuse_reward_model(folder: Path) -> Path:
    try:
        architectures = json.loads((folder / "config.json").read_bytes())["architectures"]
    except (ValueError, KeyError, TypeError):
        return folder  # loading it says what is wrong
    if any("ForSequenceClassification" in name for name in architectures):
        raise UserError(f"{folder}: a reward model scores answers and writes none; give ppo/final")
    return folder


def _exchange(conversation: "Conversation", text: str) -> None:
    try:
        dropped = conversation.ask(text)
    except UserError as error:
        _say(str(error))
        return
    if dropped:
        _say(f"the context is full: forgot the oldest {dropped} of the turns")
    try:
        conversation.answer()
    except KeyboardInterrupt:
        print(flush=True)
        _say("stopped")


def _typed_lines() -> Iterator[str]:
    import readline  # noqa: F401 - gives `input` line editing and a history

    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _piped_lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", errors="replace")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
