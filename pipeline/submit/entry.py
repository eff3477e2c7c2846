"""What a submitted job runs on the cluster: `align run`, again and again until it is done.

    python -m align.pipeline.submit.entry run CONFIG STAGE RUN_DIR [RESUME]
    python -m align.pipeline.submit.entry pack RUN_DIR

The first checks that the cluster can run what was sent, and exits as `align run` does. The second
prints the results as text, for `align jobs fetch`: what a job prints is all that Ray's Jobs API
brings back.
"""

from __future__ import annotations  # an old Python is to read this far, and be told

import base64
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import FrameType
from typing import Any

OLDEST = (3, 11)
AGAIN = 75  # pipeline/stopping.py has the same; it cannot be read before Python is checked
BEGIN, END = "-----BEGIN RESULTS-----", "-----END RESULTS-----"
COLUMNS = 4096
FIX = "install them there, or name the right interpreter as cluster.ray.python"
COMMAND = "from align.pipeline.cli import main; main()"


def run(config: str, stage: str, run_dir: str, resume: str = "auto") -> int:
    """Bring what was sent, then start the run until its exit code is not 75; only the first start
    goes back to a checkpoint, or refuses a used run directory."""
    sent = Path(config).with_name("sent.json")
    if sent.exists():
        problems = mismatches(json.loads(sent.read_text(encoding="utf-8")))
        for problem in problems:
            print(f"align: {problem}", file=sys.stderr)
        if problems:
            return 2
    bring_models(Path("run"), Path(run_dir))
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # The run has the signal too, and is about to save.
        stopped.append(number)

    signal.signal(signal.SIGTERM, stop)
    arguments = ["run", "--config", config, "--stage", stage, "--run-dir", run_dir]
    while True:
        command = [sys.executable, "-c", COMMAND, *arguments, "--resume", resume]
        code = subprocess.run(command, check=False).returncode
        if code != AGAIN or stopped:
            return code if code >= 0 else 128 - code
        resume = "auto"


def mismatches(sent: dict[str, Any]) -> list[str]:
    """What of the cluster's Python differs from what the sent code wants: one line each."""
    if sys.version_info[:2] < OLDEST:
        running = ".".join(map(str, sys.version_info[:2]))
        wanted = ".".join(map(str, OLDEST))
        return [f"the cluster's Python is {running}: install {wanted} or newer there"]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [f"{sys.executable} has none of align's packages: {FIX}"]
    # Code that travelled is of the right version; an image has its own.
    if not Path("align").is_dir() and installed("align-rlhf") != sent["align"]:
        return [
            f"the cluster's align is {installed('align-rlhf')} and this job was made by "
            f"{sent['align']}: install that there, or submit with the other"
        ]
    declared = [Requirement(text) for text in sent["requires"]]
    wrong = [one for one in declared if not fits(one)]
    return [
        f"{sys.executable} has {one.name} {installed(one.name)} and align needs "
        f"{one.specifier}: {FIX}"
        for one in wrong
    ]


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def fits(requirement: Any) -> bool:
    """Whether a package is there in a version that is asked for."""
    found = installed(requirement.name)
    return found is not None and bool(requirement.specifier.contains(found, prereleases=True))


def bring_models(sent: Path, run_dir: Path) -> None:
    """Put models of finished stages into the run directory, where it has none."""
    for model in sorted(sent.glob("*/final")):
        final = run_dir / model.parent.name / "final"
        if not final.exists():
            draft = final.with_name("final.writing")
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(model, draft)
            draft.rename(final)


def pack(run_dir: str) -> int:
    """Print the results of a run as base64 of a tar file."""
    from align.pipeline.submit.results import results

    there = Path(run_dir)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for file in results(there):
            tar.add(there / file, arcname=str(file))
    text = base64.b64encode(packed.getvalue()).decode()
    print(BEGIN)
    for start in range(0, len(text), COLUMNS):
        print(text[start : start + COLUMNS])
    print(END)
    return 0


def unpack(printed: str, destination: Path) -> int:
    """Write what `pack` printed; the number of files."""
    text = printed.partition(BEGIN)[2].partition(END)[0]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:gz") as tar:
        tar.extractall(destination, filter="data")
        return len(tar.getnames())


if __name__ == "__main__":
    _, verb, *arguments = sys.argv
    sys.exit(run(*arguments) if verb == "run" else pack(*arguments))
