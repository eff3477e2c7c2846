"""Rewards by plain Python: a function of the prompt's messages and the answer's text.

def polite(prompt: list[dict[str, str]], answer: str) -> float:
    return float("please" in answer.lower())
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from align.data.errors import UserError
from align.data.messages import Message, shown
from align.reward.signals.exchange import Exchange

RuleFunction = Callable[[list[Message], str], float]


def load_function(name: str, file: Path | None) -> RuleFunction:
    """`module:name`, or a name in a file. Raises: UserError where there is no such function."""
    module, _, attribute = name.rpartition(":")
    if bool(module) == (file is not None):
        raise UserError(
            f"reward.mix: function {name!r}: write `module:name`, or a bare name and its `file`"
        )
    found = getattr(_module(file or module), attribute, None)
    if not callable(found):
        raise UserError(f"reward.mix: no function {attribute!r} in {file or module}")
    function: RuleFunction = found
    return function


def function_scores(
    function: RuleFunction, name: str, exchanges: Sequence[Exchange]
) -> list[float]:
    """What the function says of every answer. Raises: UserError where it raises, or says nothing
    that is a number."""
    scores = []
    for place, exchange in enumerate(exchanges):
        try:
            score = function(exchange.prompt, exchange.answer)
        except Exception as error:  # the user's own code: whatever it raises is theirs to mend
            raise UserError(
                f"reward.mix: {name} raised {type(error).__name__}: {error} on answer {place}, "
                f"{shown(exchange.answer)}"
            ) from error
        if not isinstance(score, bool | int | float):
            raise UserError(
                f"reward.mix: {name} must return a number, and returned {shown(score)} for answer "
                f"{place}, {shown(exchange.answer)}"
            )
        scores.append(float(score))
    return scores


def _module(place: Path | str) -> Any:
    try:
        if isinstance(place, str):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(place.stem, place)
        if spec is None or spec.loader is None:
            raise UserError(f"reward.mix: {place} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError, SyntaxError) as error:
        raise UserError(f"reward.mix: cannot read {place}: {error}") from error
    return module
