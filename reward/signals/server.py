"""Rewards from a server: batches of answers over HTTP, asked again while it is busy or broken.

POST URL/score   {"exchanges": [{"prompt": [{"role": ..., "content": ...}], "answer": ...}, ...]}
200              {"scores": [0.3, ...]}, one finite number for each exchange, in their order
"""

import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from align.data.errors import UserError
from align.data.messages import shown
from align.reward.judge.posting import Busy, Declined, Server, once_each, post
from align.reward.signals.exchange import Exchange


def server_scores(
    server: Server,
    exchanges: Sequence[Exchange],
    batch_size: int,
    tell: Callable[[str], None] = lambda _: None,
) -> list[float]:
    """One score for every exchange, in their order; `tell` hears why one waits.

    Raises: UserError where the server is down, slow or talks nonsense until the deadline.
    """
    batches = [
        exchanges[start : start + batch_size] for start in range(0, len(exchanges), batch_size)
    ]
    stop, waiting = threading.Event(), once_each(server, tell)

    def ask(batch: Sequence[Exchange]) -> list[float]:
        body = {"exchanges": [exchange._asdict() for exchange in batch]}
        try:
            return post(
                server, "score", body, stop, lambda text: read_scores(text, len(batch)), waiting
            )
        except Declined as error:
            stop.set()
            raise UserError(f"{server.url}/score: {error}: what was sent is no use to it") from None
        except UserError:
            stop.set()  # the others need not wait for a server that is gone
            raise

    with ThreadPoolExecutor(server.workers) as pool:
        return [score for scores in pool.map(ask, batches) for score in scores]


def read_scores(text: str, count: int) -> list[float]:
    """The scores in a reply. Raises: Busy where it is anything but so many finite numbers."""
    try:
        scores: Any = json.loads(text)["scores"]
        numbers = [float(score) for score in scores if not isinstance(score, str)]
    except (ValueError, LookupError, TypeError):
        raise Busy(f'a reply without {{"scores": [...]}}: {shown(text[:200])}') from None
    if len(numbers) != count or len(scores) != count:
        raise Busy(f"{len(scores)} scores for {count} answers")
    if not all(map(math.isfinite, numbers)):
        raise Busy("a score that is not finite")
    return numbers
