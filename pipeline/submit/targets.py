"""The places that a run can be sent to, one module each."""

import importlib
from types import ModuleType

from align.data.errors import UserError

MODULES = {
    "ray": "ray_jobs",
    "slurm": "slurm",
    "kubernetes": "kubernetes",
    "skypilot": "skypilot",
}
"""Target -> the module with its `place`, `texts`, `check` and `submit`; the first two targets also
have what pipeline/submit/jobs.py asks of them."""

LIVE = ("queued", "running")
"""Of the states in pipeline/submit/jobs.py, those that a job leaves by itself."""
POLL_SECONDS = 2

OWN_TOOLS = {
    "kubernetes": "`kubectl get rayjob` and `kubectl logs`",
    "skypilot": "`sky jobs queue` and `sky jobs logs`",
}


def module_of(target: str) -> ModuleType:
    """Imported one by one: some bring a client that takes seconds."""
    return importlib.import_module(f"align.pipeline.submit.{MODULES[target]}")


def target_of(target: str) -> ModuleType:
    """The module of a target that `align jobs` can ask. Raises UserError for the others."""
    if target in OWN_TOOLS:
        raise UserError(f"align jobs: knows no {target} jobs; ask {OWN_TOOLS[target]}")
    return module_of(target)
