"""DeepSpeed's shared-memory op, compiled before the first run needs it.

    python -m align.pipeline.shared_memory_op

On CPU `deepspeed.init_distributed` compiles this op when it finds none (about a minute). It is
kept in the virtual environment, since torch's own folder is shared by all of a user's
environments and each would compile it anew. `make venv` runs this.
"""

import os
import sys
import sysconfig
import time
from pathlib import Path

import torch
from torch.utils.cpp_extension import get_default_build_root

from align.data.errors import UserError

NAME = "deepspeed_shm_comm"
STALE_AFTER = 600  # seconds; the compiler needs about 60


def prepare() -> None:
    """Call before DeepSpeed starts on CPU. Raises UserError for what a killed compilation left."""
    _put_ninja_on_path()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder().parent)
    if _is_locked():
        print(f"another process compiles DeepSpeed's op: {_lock()} is there", flush=True)
    elif not is_built() and not torch.cuda.is_available():
        print("compiling DeepSpeed's shared-memory op, about a minute, this once", flush=True)


def wait_for_others() -> None:
    """Wait while another process compiles. DeepSpeed would, and for ever if that was killed."""
    while _is_locked():
        time.sleep(0.5)


def _is_locked() -> bool:
    try:
        age = time.time() - _lock().stat().st_mtime
    except FileNotFoundError:
        return False
    if age > STALE_AFTER:
        raise UserError(
            f"{_lock()}: left by a compilation that was killed; delete it and run again"
        )
    return True


def _lock() -> Path:
    return folder() / "lock"


def is_built() -> bool:
    """Whether the op that DeepSpeed would load is there."""
    return (folder() / f"{NAME}.so").exists()


def folder() -> Path:
    """Where torch keeps the compiled op."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen) / NAME
    own = Path(sys.prefix) / "torch_extensions"
    if own.is_dir() or os.access(sys.prefix, os.W_OK):
        return own / NAME
    return Path(get_default_build_root()) / NAME


def build() -> None:
    """Compile the op, or find that it is compiled."""
    prepare()
    os.environ["DS_ACCELERATOR"] = "cpu"
    # Imported here: DeepSpeed picks its accelerator while it is imported.
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    builder = ShareMemCommBuilder()
    if not builder.is_compatible():
        print("DeepSpeed has no shared-memory op for this platform; ranks will use gloo alone.")
        return
    builder.load(verbose=False)
    print(f"DeepSpeed's shared-memory op is in {folder()}")


def _put_ninja_on_path() -> None:
    # pip puts ninja beside python, and torch looks for it on PATH: outside an activated
    # environment it finds none, or the system's, and another version of ninja compiles anew.
    scripts = sysconfig.get_path("scripts")
    path = os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != scripts:
        os.environ["PATH"] = os.pathsep.join([scripts, path])


if __name__ == "__main__":
    build()
