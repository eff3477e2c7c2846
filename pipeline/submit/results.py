"""What `align jobs fetch` brings back from a run directory: the report, the summary, the models."""

import shutil
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.config import STAGES

RESULTS = (
    "config.yaml",
    "summary.json",
    "report.html",
    *(f"{stage}/final" for stage in STAGES),
    *(f"{stage}/evaluation.json" for stage in STAGES),
)
"""Files and folders in a run directory."""


def results(run_dir: Path) -> list[Path]:
    """Those files that a run has left, relative to its directory."""
    found = (run_dir / name for name in RESULTS)
    return [
        file.relative_to(run_dir)
        for path in found
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]


def copy_results(run_dir: Path, destination: Path) -> None:
    """Raises UserError if there is nothing yet, or nothing to copy."""
    if run_dir == destination:
        raise UserError(f"{run_dir}: is on a disk that this machine sees; nothing to fetch")
    files = results(run_dir)
    if not files:
        raise UserError(f"{run_dir}: the job has left nothing yet")
    for file in files:
        (destination / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run_dir / file, destination / file)
