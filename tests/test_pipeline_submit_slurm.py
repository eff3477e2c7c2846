"""`align submit --target slurm`: the script. tests/slurm has a real Slurm run it."""

import subprocess
import sys
from pathlib import Path

import pytest

from align.data.errors import UserError
from align.pipeline.config import STAGES
from align.pipeline.loading import load_config
from align.pipeline.submit import jobs, slurm
from align.pipeline.submit.record import latest, next_folder, record


def script(tmp_path: Path, *overrides: str, stages: tuple[str, ...] = STAGES) -> str:
    """The scripts that the tiny config gives, one after the other."""
    config = load_config("tiny", [f"cluster.shared={tmp_path}", *overrides])
    job = slurm.place(config, stages, tmp_path / "run")
    return "\n".join(slurm.texts(job, tmp_path / "run" / "jobs" / "0001").values())


def options(text: str) -> dict[str, str]:
    words = (line.removeprefix("#SBATCH --") for line in text.splitlines() if "#SBATCH" in line)
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def test_one_machine_needs_no_cluster_and_shares_it_with_others(tmp_path: Path) -> None:
    text = script(tmp_path)
    assert options(text) == {
        "job-name": "tiny-all",
        "nodes": "1",
        "ntasks-per-node": "1",
        "time": "24:00:00",
        "signal": "B:USR1@600",
        "requeue": "",
        "open-mode": "append",
        "output": f"{tmp_path}/run/jobs/0001/all.log",
    }
    assert "srun" not in text and "exclusive" not in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_several_machines_have_ray_started_over_all_of_them(tmp_path: Path) -> None:
    more = ["cluster.nodes=3", "cluster.gpus_per_node=8", "cluster.slurm.partition=gpu"]
    text = script(tmp_path, *more, "cluster.slurm.port=7000", "cluster.slurm.cpus_per_node=96")
    found = options(text)
    assert (found["nodes"], found["gpus-per-node"], found["cpus-per-task"]) == ("3", "8", "96")
    assert found["partition"] == "gpu" and "exclusive" in found
    assert 'symmetric-run --address "$head:7000" --min-nodes 3 -- ' in text
    assert "sleep" not in text
    # What Ray's command needs of its surroundings on every machine.
    assert f'export PATH={Path(sys.executable).parent}:"$PATH"' in text
    assert "export RAY_AUTH_MODE=token" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_run_on_several_machines_finds_the_ray_that_the_script_started(tmp_path: Path) -> None:
    config = load_config("tiny", [f"cluster.shared={tmp_path}", "cluster.nodes=2"])
    assert slurm.place(config, STAGES, tmp_path / "run").config.cluster.address == "auto"


def test_a_chain_is_one_script_a_stage(tmp_path: Path) -> None:
    text = script(tmp_path, "cluster.slurm.chain=true")
    assert text.count("#!/bin/bash") == 3
    assert all(f"--stage {stage} " in text for stage in STAGES)


def test_lines_of_the_user_come_before_the_run(tmp_path: Path) -> None:
    text = script(tmp_path, "cluster.slurm.setup=['module load cuda']")
    assert text.index("\nmodule load cuda\n") < text.index("align.pipeline.cli")


@pytest.mark.parametrize(
    ("overrides", "run_dir", "complaint"),
    [
        (["cluster.shared=null"], "run", "cluster.shared: is not given; name a folder that all"),
        ([], "/elsewhere/run", "/elsewhere/run: is not in cluster.shared"),
        (["sft.model=/etc"], "run", r"sft.model: /etc .* MiB\): the nodes of the job may not see"),
    ],
)
def test_what_the_nodes_cannot_see_is_refused_by_name(
    overrides: list[str], run_dir: str, complaint: str, tmp_path: Path
) -> None:
    config = load_config("tiny", [f"cluster.shared={tmp_path}", *overrides])
    with pytest.raises(UserError, match=complaint):
        slurm.place(config, STAGES, tmp_path / run_dir)


def command(folder: Path, name: str, script: str) -> None:
    """In place of one of Slurm's, to have it say what it seldom says."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_log_is_followed_from_where_it_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0)
    command(tmp_path, "scontrol", "echo JobId=1 JobState=RUNNING")
    config = load_config("tiny", [f"cluster.shared={tmp_path}"])
    folder = next_folder(tmp_path)
    folder.mkdir(parents=True)
    record(folder, target="slurm", ids={"all": "1"}, job=slurm.place(config, STAGES, tmp_path))
    printed = jobs.logs(tmp_path, follow=True)
    log = folder / "all.log"
    log.write_bytes("step 1, caf\u00e9".encode()[:-1])  # a letter half written
    assert next(printed) == "step 1, caf"
    log.write_bytes(b"-" * 12 + "\u00e9 and more".encode()[1:])  # what was read is not read again
    assert next(printed) == "\u00e9 and more"
    (folder / "all.exit").write_text("0")
    assert list(printed) == [""]


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("Could not establish a configuration source", "Slurm's controller does not answer: give"),
        (
            "Unable to contact slurm controller (connect failure)",
            "or name the configuration",
        ),
        ("Invalid account\nBatch job submission failed", "Slurm: Invalid account Batch job"),
    ],
)
def test_what_slurm_says_is_one_line(
    said: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    command(tmp_path, "sbatch", f"echo '{said}' >&2; exit 1")
    with pytest.raises(UserError, match=complaint) as caught:
        slurm.check({"all.sh": ""})
    assert "\n" not in str(caught.value)


def test_half_a_chain_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("tiny", [f"cluster.shared={tmp_path}", "cluster.slurm.chain=true"])
    job = slurm.place(config, STAGES, tmp_path / "run")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    command(tmp_path, "sbatch", 'case "$*" in *afterok*) echo full >&2; exit 1;; esac; echo 41')
    command(tmp_path, "scancel", f'echo "$@" > {tmp_path}/cancelled')
    with pytest.raises(UserError, match="Slurm: full"):
        slurm.submit(job, tmp_path, slurm.texts(job, tmp_path))
    assert (tmp_path / "cancelled").read_text() == "41\n"


def test_without_slurm_the_command_says_where_to_give_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    config = load_config("tiny", [f"cluster.shared={tmp_path}"])
    job, folder = slurm.place(config, STAGES, tmp_path), next_folder(tmp_path)
    with pytest.raises(UserError, match=r"no `sbatch` here: run this .* on a login node"):
        slurm.submit(job, folder, {"all.sh": ""})
    folder.mkdir(parents=True)
    record(folder, target="slurm", ids={"all": "1"}, job=job)
    with pytest.raises(UserError, match="no `scontrol` here"):
        slurm.state(folder, latest(tmp_path)[1], "all")
