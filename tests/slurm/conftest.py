"""A real Slurm on this one machine: a controller, a node, and munge between them.

Everything lies in a folder and listens on ports of its own, so that a Slurm that the machine has
already is left alone. Debian: `apt-get install slurm-wlm munge`, and root.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm that the commands of this process talk to."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with (
        pytest.MonkeyPatch.context() as patch,
        slurm(tmp_path_factory.mktemp("slurm")) as config,
    ):
        patch.setenv("SLURM_CONF", str(config))
        yield


def missing() -> str | None:
    """Why no Slurm can be started here."""
    absent = [name for name in DAEMONS if not shutil.which(name, path=_path())]
    if absent:
        return f"needs {', '.join(absent)}: run `make test-slurm`, or install slurm-wlm and munge"
    return "needs root, as slurmd does" if os.geteuid() else None


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """The path of a slurm.conf whose cluster is up; it ends with the block."""
    config = _write(folder)
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(config)}
    munge = folder / "munge"
    munged = ["munged", f"--socket={munge}/socket", f"--key-file={munge}/key", "--force"]
    munged += [f"--{name}-file={munge}/{name}" for name in ("pid", "log", "seed")]
    try:
        for command in (munged, ["slurmctld", "-c"], ["slurmd"]):
            subprocess.run(command, env=environment, check=True, capture_output=True)
        _wait_until_idle(environment)
        yield config
    finally:
        for file in (folder / "slurmd.pid", folder / "slurmctld.pid", munge / "pid"):
            _end(file)


def _write(folder: Path) -> Path:
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700, parents=True)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    host, cpus = socket.gethostname().partition(".")[0], os.cpu_count()
    config.write_text(CONFIG.format(folder=folder, host=host, cpus=cpus, ports=_free_ports()))
    return config


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


def _wait_until_idle(environment: dict[str, str]) -> None:
    asked: subprocess.CompletedProcess[str]
    for _ in range(300):
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    raise RuntimeError(f"Slurm does not come up: {asked.stdout}{asked.stderr}")


def _end(pid_file: Path) -> None:
    with suppress(FileNotFoundError, psutil.NoSuchProcess, ValueError):
        process = psutil.Process(int(pid_file.read_text()))
        process.terminate()
        with suppress(psutil.TimeoutExpired):
            process.wait(timeout=20)
