"""`align doctor` finds what is wrong with a machine and says how to mend it."""

import importlib.util
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from align.data.errors import UserError
from align.pipeline import doctor, shared_memory_op

GIB = 2**30


def test_a_healthy_machine_passes_every_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.examine(None) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("Ready.\n")
    assert all(
        word in printed for word in ("Python", "dependencies", "ninja", "memory", "disk", "Ray")
    )


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is here")
def test_without_vllm_a_run_ends_before_it_begins(
    tmp_path: Path, finished: Callable[..., str]
) -> None:
    run, config = tmp_path / "run", tmp_path / "mine.yaml"
    arguments = ("--config", "tiny", "--run-dir", str(run), "--set", "rollout.engine=vllm")
    printed = finished("run", *arguments, code=2)
    assert printed.count("\n") == 1 and "rollout.engine: vllm is not installed here" in printed
    assert not run.exists()
    demo = "prompts: [{format: demo, rows: 8}], feedback: [{format: simulated, rows: 8}]"
    config.write_text(f"name: a\ndata: {{{demo}, instructions: [{{format: demo, rows: 8}}]}}\n")
    finished("doctor", "--config", str(config), code=0)
    with config.open("a") as file:
        file.write("rollout: {engine: vllm}\n")
    assert "vllm is not installed here" in finished("doctor", "--config", str(config), code=2)


def test_a_config_that_is_wrong_fails_with_its_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("name: a\ntrian: {}\n", encoding="utf-8")
    assert doctor.examine("some.yaml") == 2
    printed = capsys.readouterr().out
    assert "some.yaml:2: trian: unknown key; did you mean train?" in printed
    assert "checks failed" in printed


def test_a_package_outside_its_range_is_a_warning_and_a_missing_one_fails() -> None:
    old = doctor.package(Requirement("pytest<1"))
    assert (old.status, old.fix) == ("warn", "pip install 'pytest<1'")
    assert doctor.package(Requirement("no-such-distribution>=3")).status == "fail"
    assert doctor.package(Requirement("pytest")).status == "ok"


def test_a_distribution_that_is_not_installed_says_how_to_install() -> None:
    (finding,) = doctor.packages("no-such-distribution")
    assert (finding.status, finding.fix) == ("fail", "make venv")


def test_a_missing_compiler_fails() -> None:
    assert doctor.compiler("no-such-compiler").status == "fail"


@pytest.mark.parametrize(
    ("free", "status"), [(20 * GIB, "ok"), (5 * GIB, "warn"), (GIB // 2, "fail")]
)
def test_a_full_disk_fails_and_a_small_one_warns(tmp_path: Path, free: int, status: str) -> None:
    assert doctor.disk(tmp_path, free).status == status


def test_little_memory_is_a_warning() -> None:
    assert doctor.memory(2 * GIB).status == "warn"
    assert doctor.memory(8 * GIB).status == "ok"


def test_a_run_directory_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert doctor.writable(tmp_path / "file" / "runs").status == "fail"
    assert doctor.writable(tmp_path / "not" / "yet").status == "ok"
    assert not (tmp_path / "not").exists()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        yield open_socket


def test_a_cluster_that_does_not_listen_fails(listener: socket.socket) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    assert doctor.cluster(address).status == "fail"
    listener.listen()
    assert doctor.cluster(address).status == "ok"


@pytest.mark.parametrize("address", ["nonsense", "localhost:x", "localhost:99999999"])
def test_an_address_that_is_none_fails(address: str) -> None:
    assert doctor.cluster(address).status == "fail"


def test_a_lock_of_a_killed_compilation_is_an_error_and_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = shared_memory_op.folder() / "lock"
    lock.parent.mkdir()
    lock.touch()
    shared_memory_op.prepare()  # somebody may be compiling right now
    an_hour_ago = time.time() - 3600
    os.utime(lock, (an_hour_ago, an_hour_ago))
    with pytest.raises(UserError, match="delete it and run again"):
        shared_memory_op.prepare()


def test_a_run_waits_for_another_compilation_until_it_ends_or_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = shared_memory_op.folder() / "lock"
    lock.parent.mkdir()
    lock.touch()
    shared_memory_op.prepare()
    assert f"another process compiles DeepSpeed's op: {lock} is there" in capsys.readouterr().out
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(shared_memory_op.wait_for_others)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        lock.unlink()
        waiting.result(timeout=30)
        lock.touch()
        waiting = pool.submit(shared_memory_op.wait_for_others)
        an_hour_ago = time.time() - 3600
        os.utime(lock, (an_hour_ago, an_hour_ago))  # nobody is there to remove it
        with pytest.raises(UserError, match="left by a compilation that was killed"):
            waiting.result(timeout=30)


def test_ninja_is_found_without_an_activated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    shared_memory_op.prepare()
    first = os.environ["PATH"].split(os.pathsep)[0]
    assert (Path(first) / "ninja").exists()


def test_the_op_is_looked_for_where_torch_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")  # as if nobody had chosen
    shared_memory_op.prepare()
    assert str(shared_memory_op.folder()) == _get_build_directory(shared_memory_op.NAME, False)


def test_settings_of_no_config_are_one_line(finished: Callable[..., str]) -> None:
    printed = finished("doctor", "--set", "seed=2", code=2)
    assert printed.count("\n") == 1 and "give --config too" in printed
