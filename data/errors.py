"""Errors a person can fix. `align` prints them as one line and exits with 2."""


class UserError(Exception):
    """What is wrong, the value, where, and the fix, in one line."""


class ConfigError(UserError):
    """One line for each problem in a YAML file."""


class DataError(UserError):
    """A bad row or file; the text starts with `file:line:`."""


def first_line(error: Exception) -> str:
    """What a library says is wrong, in one line that can be printed."""
    lines = str(error).splitlines() or [type(error).__name__]
    return "".join(letter for letter in lines[0] if letter.isprintable())
