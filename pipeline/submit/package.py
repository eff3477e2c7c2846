"""What travels with a job to a cluster that has no copy of align: its code, the config and inputs.

    PACKAGE/align/        the code; the folder's name makes it importable there
    PACKAGE/config.yaml   paths in it are relative to it
    PACKAGE/inputs/N/     models and data that only this machine has
    PACKAGE/run/          models of stages that are finished here
    PACKAGE/sent.json     which Python and which packages the code wants

A wheel would bring its dependencies along, CUDA's torch included, and a working directory its
checkpoints and .git (verl-project/verl#696, ray-project/ray#45602).
"""

import json
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.loading import dump_config
from align.pipeline.submit.job import Job
from align.pipeline.submit.needs import MIB, Need

CODE = ("configs", "data", "pipeline", "policy", "reward")
ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def uploads(inputs: list[Need], finished: list[Need]) -> tuple[tuple[Path, Path], ...]:
    """What lies here -> its place in the package."""
    models = [(need.path, Path("run") / need.path.parent.name / "final") for need in finished]
    places = [Path("inputs") / str(n) / need.path.name for n, need in enumerate(inputs)]
    return (*((need.path, place) for need, place in zip(inputs, places, strict=True)), *models)


def copy_code(folder: Path) -> None:
    """The code alone."""
    for name in CODE:
        shutil.copytree(ROOT / name, folder / "align" / name, ignore=LEFT_OUT)


def make(folder: Path, job: Job) -> None:
    """Fill an empty folder."""
    copy_code(folder)
    (folder / "config.yaml").write_text(dump_config(job.config), encoding="utf-8")
    (folder / "sent.json").write_text(json.dumps(wanted(), indent=2), encoding="utf-8")
    for source, place in job.uploads:
        _copy(source, folder / place)


def contents(job: Job) -> str:
    """What a package would hold, and where from."""
    code = sum(Need("align", ROOT / name).size for name in CODE)
    lines = [f"align/  {code / MIB:.1f} MiB of code", "config.yaml", "sent.json"]
    lines += [f"{place}  {Need('from', source)}" for source, place in job.uploads]
    return "\n".join(lines) + "\n"


def wanted() -> dict[str, object]:
    """The version of align that is sent, and what it was declared to depend on."""
    try:
        declared = [text for text in requires("align-rlhf") or () if "extra ==" not in text]
        return {"align": version("align-rlhf"), "requires": declared}
    except PackageNotFoundError:
        raise UserError("align-rlhf: not installed here; see `align doctor`") from None


def check_size(needs: list[Need], limit_mib: float) -> None:
    """Raises UserError, naming what is too large to travel."""
    code = sum(Need("align", ROOT / name).size for name in CODE)
    total = (code + sum(need.size for need in needs)) / MIB
    if total > limit_mib:
        largest = sorted(needs, key=lambda need: need.size, reverse=True)
        fix = f"put into cluster.shared: {', '.join(map(str, largest))}" if needs else "raise it"
        raise UserError(
            f"too large to travel with the job: {total:.1f} MiB, and cluster.ray.upload_mib is "
            f"{limit_mib:g}; {fix}"
        )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=LEFT_OUT)
    else:
        shutil.copyfile(source, target)
