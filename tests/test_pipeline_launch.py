"""Where training processes come from."""

import subprocess
import sys
import warnings

import pytest

from align.data.errors import UserError
from align.pipeline.config import ClusterConfig
from align.pipeline.launch import ray_session, silence_deprecations

WITHOUT_NETWORK = """
from align.data.errors import UserError
from align.pipeline.config import ClusterConfig
from align.pipeline.launch import ray_session
try:
    with ray_session(ClusterConfig(), dashboard=False):
        print("started")
except UserError as error:
    print(error)
"""


def test_deprecations_between_libraries_are_silent_and_ours_are_not() -> None:
    def warn(module: str) -> None:
        warnings.warn_explicit("`f` is deprecated", FutureWarning, "file.py", 1, module)

    silence_deprecations()
    warn("deepspeed.comm.torch")
    warn("torch.distributed.c10d_logger")
    for module in ("align.pipeline.engine", "torchlike"):
        with pytest.raises(FutureWarning):
            warn(module)


def test_no_free_port_is_one_line_before_ray_waits_for_one() -> None:
    """In a network namespace of its own, where not even the loopback device is up."""
    alone = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace")
    done = subprocess.run(
        [*alone, sys.executable, "-c", WITHOUT_NETWORK],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith("Ray needs a free port of 127.0.0.1"), done.stderr
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("local", r"Ray does not start on this machine \(The current node timed out .*overloaded"),
        ("auto", r"no Ray cluster at cluster.address: auto \(The current node timed out"),
    ],
)
def test_a_machine_too_busy_for_ray_is_one_line(
    address: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives its processes half a minute, and then raises a plain Exception."""

    def too_slow(**_: object) -> None:
        raise Exception(
            "The current node timed out during startup. This could happen because some of the "
            "raylet failed to startup or the GCS has become overloaded."
        )

    monkeypatch.setattr("ray.init", too_slow)
    with (
        pytest.raises(UserError, match=complaint) as caught,
        ray_session(ClusterConfig(address=address), dashboard=False),
    ):
        pass
    assert "\n" not in str(caught.value)
