"""`align doctor`: is this machine ready to run, and if not, what mends it.

Every check is a function that returns findings; a finding that fails makes the exit code 2.
"""

import os
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from rich.console import Console
from rich.text import Text

from align.data.errors import UserError
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.finding import Finding
from align.pipeline.inputs import check_engine, check_inputs
from align.pipeline.loading import load_config

GIB = 2**30
STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def examine(config: str | None, overrides: Sequence[str] = (), run_dir: Path | None = None) -> int:
    """Print what each check found, and below it the fix; 2 when something fails, else 0."""
    findings = [*_environment(), *_machine()]
    if config is not None:
        findings += _config(config, overrides, run_dir)
    console = Console(soft_wrap=True, highlight=False)  # a path is never cut
    for finding in findings:
        status = Text(f"{finding.status:<5}", STYLES[finding.status])
        console.print(Text.assemble(f"{finding.what:<16}", status, finding.found))
        if finding.fix:
            console.print(Text(f"{'':<21}{finding.fix}", "bold"))
    failed = sum(finding.status == "fail" for finding in findings)
    print(f"{failed} of {len(findings)} checks failed." if failed else "Ready.")
    return 2 if failed else 0


def _environment() -> Iterator[Finding]:
    yield _python(sys.version_info[:3])
    yield from packages()
    yield compiler(os.environ.get("CXX", "c++"))
    yield _headers()
    yield from _torch()


def _machine() -> Iterator[Finding]:
    yield memory(psutil.virtual_memory().available)
    yield disk(Path.cwd(), shutil.disk_usage(Path.cwd()).free)
    yield writable(Path("runs").absolute())
    yield _ports()


def _python(running: tuple[int, ...]) -> Finding:
    text = ".".join(map(str, running))
    if running < (3, 11):
        return Finding("Python", "fail", text, "make venv PYTHON=python3.11 (or newer)")
    return Finding("Python", "ok", text)


def packages(distribution: str = "align-rlhf") -> Iterator[Finding]:
    """The dependencies that are not there or outside the ranges that `distribution` declares."""
    try:
        declared = [Requirement(text) for text in requires(distribution) or ()]
    except PackageNotFoundError:
        yield Finding(distribution, "fail", "not installed", "make venv")
        return
    needed = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    bad = [finding for finding in map(package, needed) if finding.status != "ok"]
    good = f"{len(needed) - len(bad)} of {len(needed)} dependencies are as tested"
    yield Finding(distribution, "ok", f"{version(distribution)}; {good}")
    yield from bad


def package(requirement: Requirement) -> Finding:
    """One dependency: there, and within its range?"""
    name, tested = requirement.name, str(requirement.specifier)
    fix = f"pip install '{name}{tested}'"
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Finding(name, "fail", "not installed", fix)
    if not requirement.specifier.contains(installed, prereleases=True):
        return Finding(name, "warn", f"{installed}, tested with {tested}", fix)
    return Finding(name, "ok", installed)


def compiler(name: str) -> Finding:
    """DeepSpeed compiles its shared-memory op with it, once."""
    found = shutil.which(name)
    if found is None:
        return Finding("C++ compiler", "fail", f"no {name}", "apt install g++, or set CXX")
    return Finding("C++ compiler", "ok", found)


def _headers() -> Finding:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        return Finding("Python headers", "fail", f"no {header}", "apt install python3-dev")
    return Finding("Python headers", "ok", str(header.parent))


def _torch() -> Iterator[Finding]:
    try:
        import torch

        from align.pipeline import shared_memory_op
    except ImportError as error:
        yield Finding("torch", "fail", f"cannot be imported: {error}", "make venv")
        return
    try:
        shared_memory_op.prepare()
    except UserError as error:
        lock, _, rest = str(error).partition(": ")
        yield Finding("DeepSpeed op", "fail", f"{lock}: {rest}", f"rm {lock}")
    else:
        yield _op(shared_memory_op.is_built(), shared_memory_op.folder())
    ninja = shutil.which("ninja")
    fix = "pip install ninja"
    yield Finding("ninja", "ok", ninja) if ninja else Finding("ninja", "fail", "not found", fix)
    threads = f"{os.cpu_count()} CPUs, torch uses {torch.get_num_threads()} threads"
    yield Finding("processors", "ok", threads)
    yield _accelerator(
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )


def _op(built: bool, folder: Path) -> Finding:
    if built:
        return Finding("DeepSpeed op", "ok", str(folder))
    fix = "python -m align.pipeline.shared_memory_op"
    return Finding("DeepSpeed op", "warn", "not built: the first run compiles a minute", fix)


def _accelerator(names: list[str]) -> Finding:
    return Finding("accelerator", "ok", ", ".join(names) if names else "none, runs on CPU")


def memory(available: int) -> Finding:
    """`available` in bytes. The demo needs about 4 GiB with its Ray workers."""
    text = f"{available / GIB:.1f} GiB available"
    if available < 4 * GIB:
        return Finding("memory", "warn", text, "close other programs; the demo needs about 4 GiB")
    return Finding("memory", "ok", text)


def disk(folder: Path, free: int) -> Finding:
    """`free` in bytes. Checkpoints are three times the size of the weights in fp32."""
    text = f"{free / GIB:.1f} GiB free in {folder}"
    if free < GIB:
        return Finding("disk", "fail", text, "free some space; a run needs at least 1 GiB")
    if free < 10 * GIB:
        return Finding("disk", "warn", text, "enough for small models only")
    return Finding("disk", "ok", text)


def writable(folder: Path) -> Finding:
    """Whether a run directory can be made below `folder`, which need not exist yet."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there):
            return Finding("run directory", "ok", f"{folder} can be written")
    except OSError as error:
        text = f"{there}: {error.strerror}"
        return Finding("run directory", "fail", text, "work elsewhere, or name one with --run-dir")


def _ports() -> Finding:
    """Ray's processes listen on free ports and keep their files in the temporary folder."""
    try:
        with socket.socket() as listener, tempfile.TemporaryDirectory():
            listener.bind(("127.0.0.1", 0))
            listener.listen()
    except OSError as error:
        text = f"cannot listen on 127.0.0.1 or write {tempfile.gettempdir()}: {error.strerror}"
        return Finding("Ray", "fail", text, "allow local sockets; set TMPDIR to a writable folder")
    return Finding("Ray", "ok", "can listen on a free port")


def _config(config: str, overrides: Sequence[str], run_dir: Path | None) -> Iterator[Finding]:
    """A config may be for some stages alone: those that it has data for are checked."""
    try:
        settings = load_config(config, overrides)
        data = settings.data
        has = zip(STAGES, (data.instructions, data.feedback, data.prompts), strict=True)
        stages = tuple(stage for stage, sources in has if sources)
        if not stages:
            raise UserError(
                "names no data: give data.instructions for sft, data.feedback for rm, "
                "data.prompts for ppo"
            )
        check_inputs(settings, stages)
        check_engine(settings, stages)
    except UserError as error:
        for problem in str(error).splitlines():
            yield Finding("config", "fail", problem, f"correct {config}, or bring what it names")
        return
    yield Finding("config", "ok", f"{config}, with data for {', '.join(stages)}")
    if settings.data.instructions:
        yield from _instructions(settings, run_dir or Path("runs") / settings.name)
    address = settings.cluster.address
    if address not in ("local", "auto"):
        yield cluster(address)


def _instructions(config: RunConfig, run_dir: Path) -> Iterator[Finding]:
    """What SFT would learn, by the lints of `sft_lints.py`."""
    try:
        from align.pipeline.sft_check import findings

        found = list(findings(config, run_dir))
    except UserError as error:
        for problem in str(error).splitlines():
            yield Finding("instructions", "fail", problem, "correct the data, or the config")
        return
    except ImportError:  # _torch says what is missing
        return
    yield from found
    if not found:
        yield Finding("instructions", "ok", "no lint found anything")


def cluster(address: str) -> Finding:
    """Whether something listens at `host:port`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        fix = "start Ray there, or set cluster.address to local"
        return Finding("Ray cluster", "fail", f"{address}: {error}", fix)
    return Finding("Ray cluster", "ok", address)
