"""Ray that dies under a run: real processes, killed."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

DRIVER = """
import time
from align.pipeline.config import ClusterConfig
from align.pipeline.launch import ray_session
with ray_session(ClusterConfig(), dashboard=False):
    print("up", flush=True)
    {work}
print("ended", flush=True)
"""


@contextmanager
def driver(work: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has Ray and does some work with it."""
    command = [sys.executable, "-c", DRIVER.format(work=work)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("program", "name"), [("gcs_server", "global control store"), ("raylet/raylet", "raylet")]
)
def test_the_death_of_ray_is_one_line_and_ends_the_run(program: str, name: str) -> None:
    with driver("time.sleep(600)") as process:
        below = psutil.Process(process.pid).children(recursive=True)
        (victim,) = (child for child in below if program in child.cmdline()[0])
        victim.kill()
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = (line for line in complaints.splitlines() if line.startswith("align: "))
    assert f"Ray's {name} is gone" in line and "The same command goes on" in line


@pytest.mark.slow
@pytest.mark.parametrize(("work", "code"), [("pass", 0), ("raise ValueError('a bug')", 1)])
def test_a_run_that_ends_by_itself_does_not_speak_of_ray(work: str, code: int) -> None:
    with driver(work) as process:
        printed, complaints = process.communicate(timeout=60)
    assert process.returncode == code
    assert "align:" not in complaints
    assert ("ended" in printed) is (code == 0) and ("a bug" in complaints) is (code == 1)
