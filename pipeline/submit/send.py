"""`align submit`: check a run, send it, and keep what was sent in the run directory."""

import shutil
from dataclasses import replace
from pathlib import Path

from align.data.errors import UserError
from align.pipeline.config import STAGES, RunConfig
from align.pipeline.inputs import check_inputs
from align.pipeline.loading import dump_config
from align.pipeline.run_directory import RunDirectory, locked, resume_point
from align.pipeline.submit.job import Job, check_gpus
from align.pipeline.submit.jobs import live_submission
from align.pipeline.submit.record import next_folder, record
from align.pipeline.submit.targets import OWN_TOOLS, module_of


def send(
    config: RunConfig,
    stages: tuple[str, ...],
    run_dir: Path,
    target: str,
    resume: str,
    *,
    dry_run: bool,
) -> None:
    """Submit the run, or print what would be submitted. Raises UserError."""
    check_gpus(config)
    shared = config.cluster.shared
    unseen = None if shared and shared.is_dir() else shared
    check_inputs(config, stages, elsewhere=unseen)
    module = module_of(target)
    job: Job = module.place(config, stages, run_dir)
    if unseen:
        job = _resumed_there(job, target, resume)
    else:
        resume = _checked(resume, run_dir, job.run_dir)
    folder = next_folder(run_dir)
    texts: dict[str, str] = module.texts(job, folder)
    module.check(texts)
    sent = {"config.yaml": dump_config(job.config), **texts}
    if dry_run:
        for name, text in sent.items():
            print(f"# {folder / name}\n{text}")
        return
    if _is_live(run_dir, target, job.digest):
        return
    if not unseen and resume not in ("auto", "never"):
        _go_on_from(resume, RunDirectory(job.run_dir))
    _make(folder)
    try:
        for name, text in sent.items():
            (folder / name).write_text(text, encoding="utf-8")
        RunDirectory(run_dir).stop_job.unlink(missing_ok=True)
        ids: dict[str, str] = module.submit(job, folder, texts)
    except BaseException:
        shutil.rmtree(folder)
        raise
    record(folder, target=target, ids=ids, job=job)
    for stage, job_id in ids.items():
        print(f"submitted {stage} to {target}: {job_id}")
    if target not in OWN_TOOLS:
        print(f"follow it with `align jobs logs -f {run_dir}`")


def _is_live(run_dir: Path, target: str, digest: str) -> bool:
    """Whether the very run is on its way already; another one in its place is refused."""
    if target in OWN_TOOLS:
        return False
    live = live_submission(run_dir)
    if live is None:
        return False
    folder, submission = live
    jobs = ", ".join(submission.ids.values())
    if submission.digest != digest:
        raise UserError(
            f"{run_dir}: another job is live ({jobs}, {folder}); end it with `align jobs stop "
            f"{run_dir}`, or choose another --run-dir"
        )
    print(f"already submitted: {jobs}; follow it with `align jobs logs -f {run_dir}`")
    return True


def _resumed_there(job: Job, target: str, resume: str) -> Job:
    """The job with a `--resume` that only the cluster can look into."""
    # The others may start a job anew without a word to us, and it would go back each time.
    if resume != "auto" and target != "ray":
        raise UserError(
            f"--resume {resume}: this machine does not see {job.run_dir}; submit from one that does"
        )
    return replace(job, resume=resume)


def _checked(resume: str, *run_dirs: Path) -> str:
    """A `--resume` that can be carried out here. Raises UserError."""
    for directory in map(RunDirectory, run_dirs):
        if resume == "never" and any(directory.has_begun(stage) for stage in STAGES):
            raise UserError(
                f"{directory.path} holds a run: choose another --run-dir, or drop --resume"
            )
    return resume_point(resume, directory)


def _go_on_from(checkpoint: str, directory: RunDirectory) -> None:
    """A job resumes by itself, each time it starts; what else was asked for happens now, once."""
    from align.pipeline.run import go_on_from  # brings torch

    with locked(directory):
        go_on_from(Path(checkpoint), directory)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
