"""Where training processes come from."""

import warnings

import pytest

from align.pipeline.launch import silence_deprecations


def test_deprecations_between_libraries_are_silent_and_ours_are_not() -> None:
    def warn(module: str) -> None:
        warnings.warn_explicit("`f` is deprecated", FutureWarning, "file.py", 1, module)

    silence_deprecations()
    warn("deepspeed.comm.torch")
    warn("torch.distributed.c10d_logger")
    for module in ("align.pipeline.engine", "torchlike"):
        with pytest.raises(FutureWarning):
            warn(module)
