"""Errors a person can fix. `align` prints them as one line and exits with 2."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""A full or a read-only disk, or a limit on the size of files (`ulimit -f`)."""


class UserError(Exception):
    """What is wrong, the value, where, and the fix, in one line."""


class ConfigError(UserError):
    """One line for each problem in a YAML file."""


class DataError(UserError):
    """A bad row or file; the text starts with `file:line:`."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A disk error in the block tells which file it is about: writing to an open one does not."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_ERRORS and error.filename is None:
            error.filename = str(path)
        raise


def first_line(error: Exception) -> str:
    """What a library says is wrong, in one line that can be printed."""
    lines = str(error).splitlines() or [type(error).__name__]
    return "".join(letter for letter in lines[0] if letter.isprintable())
