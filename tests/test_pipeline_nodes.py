"""Several Ray nodes on one machine: what the death of a whole node does to a run."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

Start = Callable[..., subprocess.Popen[str]]
Timeless = Callable[[Path, str], list[dict[str, float]]]
RAY = str(Path(sys.executable).with_name("ray"))


class Nodes:
    """A head without CPUs, and nodes with one each; all end with the test."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        ports = self._free_ports()
        self.address = f"127.0.0.1:{ports[0]}"
        self._started = [
            self._start(
                *["--head", "--num-cpus=0", "--include-dashboard=false"],
                *["--node-ip-address=127.0.0.1", f"--port={ports[0]}", f"--temp-dir={folder}"],
            )
        ]

    @staticmethod
    def _free_ports() -> list[int]:
        with ExitStack() as stack:
            servers = [stack.enter_context(socket.create_server(("", 0))) for _ in range(2)]
            return [server.getsockname()[1] for server in servers]

    def add(self) -> subprocess.Popen[str]:
        """One more node."""
        started = self._start(f"--address={self.address}", "--num-cpus=1")
        self._started.append(started)
        return started

    def _start(self, *options: str) -> subprocess.Popen[str]:
        # Blocking, so that what it started are its children.
        command = [RAY, "start", "--block", "--disable-usage-stats", *options]
        agent = f"--dashboard-agent-listen-port={self._free_ports()[1]}"
        # On a busy machine Ray gives up its own start after half a minute.
        for _ in range(5):
            started = subprocess.Popen(
                [*command, agent],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert started.stdout
            if any("runtime started" in line for line in started.stdout):
                return started
        raise AssertionError("ray start has failed")

    def close(self) -> None:
        """Workers first."""
        for started in reversed(self._started):
            kill(started)


def family(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid).children(recursive=True)
    return found


def has_workers(node: subprocess.Popen[str]) -> bool:
    for one in family(node.pid):
        with suppress(psutil.Error):  # it may have ended since
            if "Sampler" in " ".join(one.cmdline()):
                return True
    return False


def kill(node: subprocess.Popen[str]) -> None:
    """As a machine dies: everything on it, at once."""
    for process in family(node.pid):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    node.kill()
    node.wait()
    assert node.stdout
    node.stdout.close()


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    token = tmp_path / "token"
    token.write_text("a token of this test's own\n".replace(" ", "-"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    folder = Path("/tmp") / f"align-nodes-{os.getpid()}"  # names of sockets are short
    made = Nodes(folder)
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_that_dies_in_the_middle_of_ppo_changes_nothing(
    nodes: Nodes, tmp_path: Path, tiny_run: Path, align: Start, timeless: Timeless
) -> None:
    """All rollout workers are on one node, and start again on the other when it dies."""
    run = tmp_path / "run"
    for stage in ("sft", "rm"):
        shutil.copytree(tiny_run / stage / "final", run / stage / "final")
    both = [nodes.add(), nodes.add()]
    overrides = [f"cluster.address={nodes.address}", "cluster.cpus_per_worker=0.4"]
    flags = [word for one in overrides for word in ("--set", one)]
    with align(
        *["run", "--config", "tiny", "--stage", "ppo", "--run-dir", str(run), *flags]
    ) as process:
        wait_for_step(run, process)
        [theirs] = [node for node in both if has_workers(node)]
        kill(theirs)
        printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    assert "died and starts again" in printed
    assert timeless(run, "ppo") == timeless(tiny_run, "ppo")
    weights = [path / "ppo" / "final" / "model.safetensors" for path in (run, tiny_run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def wait_for_step(run: Path, process: subprocess.Popen[str]) -> None:
    metrics = run / "ppo" / "metrics.jsonl"
    for _ in range(6000):
        if metrics.exists() and metrics.read_text("utf-8"):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError("no step")
