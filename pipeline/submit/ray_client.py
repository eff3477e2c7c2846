"""A client of Ray's Jobs API, and what it complains of in one line each.

The token that guards a cluster goes into the request's header and nowhere else.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align.data.errors import UserError


@contextmanager
def asking(address: str) -> Iterator[Any]:
    """A client, and its complaints as one line each."""
    # Ray's client takes a second to import, so only those who ask have it.
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # It tells of every upload, and of every connection that ends.
    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    token = find_token()
    try:
        yield JobSubmissionClient(
            address, headers={"Authorization": f"Bearer {token}"} if token else None
        )
    except AuthenticationError as error:
        missing = token is None or "required" in str(error)
        raise UserError(_explained(address, missing=missing)) from None
    except RuntimeError as error:
        raise UserError(f"Ray at {address}: {' '.join(str(error).split())[:300]}") from None
    except (ConnectionError, requests.exceptions.RequestException, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"cluster.ray.address: no Ray dashboard at {address} ({reason}); give the address that "
            "`ray start --head` printed"
        ) from None


def find_token() -> str | None:
    """The token of a guarded cluster, from where Ray itself looks for it."""
    given = os.environ.get("RAY_AUTH_TOKEN")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if given:
        return given
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def _explained(address: str, *, missing: bool) -> str:
    where = "copy ~/.ray/auth_token from its head node to ~/.ray here, or set RAY_AUTH_TOKEN_PATH"
    if missing:
        return f"the cluster at {address} asks for a token (RAY_AUTH_MODE=token): {where}"
    return f"the cluster at {address} has another token than the one found here: {where}"
