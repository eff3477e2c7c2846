"""`align submit --target ray`: what travels, and a real cluster with a token that runs it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from align.data.errors import UserError
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.loading import load_config
from align.pipeline.submit import entry, jobs, package, ray_client, ray_jobs
from align.pipeline.submit.record import latest
from align.pipeline.submit.send import send

Finished = Callable[..., str]
RAY = str(Path(sys.executable).with_name("ray"))


def tiny(shared: Path, *overrides: str) -> RunConfig:
    """SFT of fifteen steps, each with its checkpoint, on a cluster with this very Python."""
    more = [f"cluster.shared={shared}", f"cluster.ray.python={sys.executable}"]
    more += ["sft.epochs=3", "train.save_every=1", "train.keep_last=20"]
    return load_config("tiny", [*more, *overrides])


def text_file(path: Path, mib: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * int(mib * 2**20))
    return path


def instructions(path: Path) -> str:
    return f"data.instructions=[{{format: messages, path: {path}}}]"


def test_code_config_and_small_inputs_travel_and_nothing_else(tmp_path: Path) -> None:
    data = text_file(tmp_path / "here" / "mine.jsonl", 0.01)
    job = ray_jobs.place(tiny(tmp_path / "there", instructions(data)), STAGES, tmp_path / "run")
    package.make(tmp_path / "package", job)
    told = ray_jobs.texts(job, tmp_path)["package.txt"]
    assert f"inputs/0/mine.jsonl  from: {data} (0.0 MiB)\n" in told
    sent = {path.name for path in (tmp_path / "package").iterdir()}
    assert sent == {"align", "config.yaml", "sent.json", "inputs"}
    assert {path.name for path in (tmp_path / "package" / "align").iterdir()} == set(package.CODE)
    assert not list((tmp_path / "package").rglob("__pycache__"))
    # Paths in the config are relative to it, so it finds its inputs wherever it is unpacked.
    config = load_config(tmp_path / "package" / "config.yaml")
    assert config.data.instructions[0].path == tmp_path / "package" / "inputs" / "0" / "mine.jsonl"
    assert config.cluster.address == "auto"


def test_what_lies_in_the_shared_folder_stays_there_and_need_not_be_seen_from_here() -> None:
    config = tiny(Path("/mnt/all"), instructions(Path("/mnt/all/mine.jsonl")))
    job = ray_jobs.place(config, STAGES, Path("/home/me/runs/first"))
    assert job.uploads == ()
    assert job.config.data.instructions == config.data.instructions
    assert job.run_dir == Path("/mnt/all/first")


def test_models_of_stages_that_are_finished_here_travel_too(tmp_path: Path) -> None:
    final = tmp_path / "run" / "sft" / "final"
    text_file(final / "config.json", 0.001)
    job = ray_jobs.place(tiny(tmp_path / "there"), ("rm",), tmp_path / "run")
    package.make(tmp_path / "package", job)
    entry.bring_models(tmp_path / "package" / "run", tmp_path / "there" / "run")
    assert (tmp_path / "there" / "run" / "sft" / "final" / "config.json").exists()


def test_what_is_too_large_to_travel_is_refused_by_name(tmp_path: Path) -> None:
    data = text_file(tmp_path / "mine.jsonl", 3)
    config = tiny(tmp_path / "there", instructions(data), "cluster.ray.upload_mib=6")
    complaint = rf"cluster.ray.upload_mib is 6; put into .*: data.instructions.0.path: {data}"
    with pytest.raises(UserError, match=complaint):
        ray_jobs.place(config, STAGES, tmp_path / "run")
    with pytest.raises(UserError, match=r"cluster.ray.upload_mib is 0.1; raise it$"):  # the code
        ray_jobs.place(
            tiny(tmp_path / "there", "cluster.ray.upload_mib=0.1"), STAGES, tmp_path / "run"
        )


def test_the_request_is_named_after_what_it_runs(tmp_path: Path) -> None:
    def name(*overrides: str) -> str:
        job = ray_jobs.place(tiny(tmp_path, *overrides), STAGES, tmp_path / "run")
        return str(json.loads(ray_jobs.texts(job, tmp_path)["job.json"])["submission_id"])

    assert name() == name() != name("seed=2")


def test_one_rank_trains_in_the_entry_point_so_that_gets_the_gpu(tmp_path: Path) -> None:
    def gpus(*overrides: str) -> int:
        job = ray_jobs.place(tiny(tmp_path, *overrides), STAGES, tmp_path / "run")
        return int(json.loads(ray_jobs.texts(job, tmp_path)["job.json"])["entrypoint_num_gpus"])

    assert gpus() == 0
    assert gpus("cluster.gpus_per_node=1") == 1
    assert gpus("cluster.gpus_per_node=8", "train.ranks=4") == 0


def test_nobody_listening_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    complaint = f"cluster.ray.address: no Ray dashboard at {address} "
    config = tiny(tmp_path, f"cluster.ray.address={address}")
    with pytest.raises(UserError, match=complaint) as caught:
        send(config, ("sft",), tmp_path / "run", "ray", "auto", dry_run=False)
    assert "\n" not in str(caught.value)


def test_an_older_python_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "OLDEST", (99, 0))
    [problem] = entry.mismatches({"align": "0", "requires": []})
    assert problem.endswith("install 99.0 or newer there")


def test_another_align_in_the_image_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = package.wanted()
    assert entry.mismatches(wanted) == []
    [problem] = entry.mismatches(wanted | {"align": "9.9"})
    assert "this job was made by 9.9: install that there" in problem


def test_packages_that_the_code_cannot_use_are_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "align").mkdir()  # the code has travelled, so the version there does not matter
    sent = {"align": "9.9", "requires": ["numpy<1", "nothing-of-this-name>=2", "rich>1"]}
    problems = entry.mismatches(sent)
    assert len(problems) == 2
    assert "numpy" in problems[0] and "align needs <1: install them there" in problems[0]
    assert "nothing-of-this-name None and align needs >=2" in problems[1]


def test_the_entry_point_starts_the_run_again_while_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "count"
    program = (
        "import pathlib, sys\n"
        f"path = pathlib.Path({str(counter)!r})\n"
        "done = len(path.read_text()) if path.exists() else 0\n"
        "path.write_text('x' * (done + 1))\n"
        f"pathlib.Path({str(counter)!r} + str(done)).write_text(sys.argv[-1])\n"
        "sys.exit(75 if done < 2 else 3)"
    )
    monkeypatch.setattr(entry, "COMMAND", program)
    earlier = signal.getsignal(signal.SIGTERM)
    assert entry.run(str(tmp_path / "config.yaml"), "sft", str(tmp_path / "run"), "never") == 3
    signal.signal(signal.SIGTERM, earlier)
    assert counter.read_text() == "xxx"
    # Or it would refuse what it has just made.
    assert [(tmp_path / f"count{n}").read_text() for n in range(3)] == ["never", "auto", "auto"]


def test_results_come_back_through_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for name in ("report.html", "sft/final/model.safetensors", "sft/checkpoints/large"):
        text_file(run / name, 0.01)
    entry.pack(str(run))
    assert entry.unpack(f"noise\n{capsys.readouterr().out}noise", tmp_path / "here") == 2
    assert (tmp_path / "here" / "sft" / "final" / "model.safetensors").stat().st_size > 10_000
    assert not (tmp_path / "here" / "sft" / "checkpoints").exists()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster on this machine, with a token of its own; its dashboard's address."""
    home = tmp_path_factory.mktemp("home")
    token = home / ".ray" / "auth_token"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.delenv("RAY_AUTH_MODE", raising=False)
        subprocess.run([RAY, "get-auth-token", "--generate"], check=True, capture_output=True)
        assert token.exists()
        # On a busy machine Ray gives up its own start after half a minute.
        for _ in range(5):
            head, dashboard = start_head()
            if head.stdout and any("runtime started" in line for line in head.stdout):
                break
        patch.undo()
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        try:
            yield dashboard
        finally:
            head.terminate()
            head.communicate()
            shutil.rmtree(f"/tmp/ray-{dashboard.rpartition(':')[2]}", ignore_errors=True)


def start_head() -> tuple[subprocess.Popen[str], str]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("", 0))) for _ in range(3)]
        ports = [server.getsockname()[1] for server in servers]
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += [f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
    # Another Ray on the machine has the usual one, without which a cluster takes no jobs; and the
    # names of sockets are short.
    command += [f"--dashboard-agent-listen-port={ports[2]}", f"--temp-dir=/tmp/ray-{ports[1]}"]
    head = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return head, f"http://127.0.0.1:{ports[1]}"


@pytest.mark.timeout(900)
def test_a_job_is_followed_stopped_submitted_again_and_ends_as_if_it_never_was(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: Finished
) -> None:
    run, config = tmp_path / "run", tiny(tmp_path, f"cluster.ray.address={address}")
    send(config, ("sft",), run, "ray", "auto", dry_run=False)
    first = latest(run)[1].ids["sft"]
    send(config, ("sft",), run, "ray", "auto", dry_run=False)
    assert f"already submitted: {first}" in capsys.readouterr().out
    wait_for_steps(run, 2)
    assert jobs.stop(run, minutes=5) == {"sft": "stopped"}
    assert "stopped after a checkpoint" in "".join(jobs.logs(run, follow=False))

    earlier = run / "sft" / "checkpoints" / "step-00000001"
    send(config, ("sft",), run, "ray", str(earlier), dry_run=False)
    assert latest(run)[1].ids["sft"] == first.removesuffix("1") + "2"
    printed = followed(run)
    assert jobs.states(run) == {"sft": "done"}, printed
    assert "going on after step 1:" in printed
    assert printed == "".join(jobs.logs(run, follow=False))
    assert [line.split()[3] for line in jobs.list_jobs(run)] == ["stopped", "done"]

    plain = tmp_path / "plain"
    flags = ["--stage", "sft", "--set", "sft.epochs=3"]
    finished("run", "--config", "tiny", "--run-dir", str(plain), *flags)
    weights = [path / "sft" / "final" / "model.safetensors" for path in (run, plain)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    jobs.fetch(run, tmp_path / "here")
    assert (tmp_path / "here" / "report.html").exists()
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    told = [printed, *(p.read_text("utf-8") for p in (run / "jobs").rglob("*") if p.is_file())]
    assert not any(token in text for text in told)


def followed(run: Path) -> str:
    """All that a job prints until it ends, over a connection that drops once; nothing is asked for
    as a whole."""
    tail, drops = ray_jobs._tail, [1]

    def interrupted(client: Any, name: str) -> Iterator[str]:
        for text in tail(client, name):
            yield text
            if drops and drops.pop():
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def refused(*_: object) -> str:
        raise AssertionError("the log was fetched whole")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_jobs, "_tail", interrupted)
        patch.setattr(ray_jobs, "log", refused)
        return "".join(jobs.logs(run, follow=True))


def wait_for_steps(run: Path, steps: int) -> None:
    metrics = run / "sft" / "metrics.jsonl"
    for _ in range(1200):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= steps:
            return
        time.sleep(0.25)
    raise AssertionError("".join(jobs.logs(run, follow=False)))


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("RAY_AUTH_TOKEN_PATH", "/nowhere", r"asks for a token \(RAY_AUTH_MODE=token\): copy"),
        ("RAY_AUTH_TOKEN", "wrong", "has another token than the one found here: copy"),
    ],
)
def test_a_token_that_is_missing_or_wrong_is_one_line(
    address: str,
    variable: str,
    value: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    config = tiny(tmp_path, f"cluster.ray.address={address}")
    with pytest.raises(UserError, match=complaint) as caught:
        send(config, ("sft",), tmp_path / "run", "ray", "auto", dry_run=False)
    assert "\n" not in str(caught.value)


def test_results_that_this_machine_does_not_see_are_packed_by_a_job(
    address: str, tmp_path: Path
) -> None:
    """As if the run lay on a disk of the cluster alone: the record names it, and it is not here."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    text_file(elsewhere / "report.html", 0.01)
    config = tiny(tmp_path, f"cluster.ray.address={address}")
    with ray_client.asking(address) as client:
        ray_jobs.fetch_printed(client, config.cluster.ray, str(elsewhere), run)
    assert (run / "report.html").read_bytes() == (elsewhere / "report.html").read_bytes()
