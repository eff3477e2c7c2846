"""Bad rows: kept in `rejected.jsonl`, counted, and too many of them are an error."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from align.data.atomic import write_jsonl
from align.data.errors import DataError


class BadRow(Exception):
    """Raised by whoever finds that a row cannot be used; caught where file and line are known."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class Rejection:
    """One reason why a row is not used; `line` is the row's number where a file has no lines."""

    file: str
    line: int
    field: str
    reason: str


@dataclass
class Rejects:
    """Counts good and bad rows of one command.

    `max_rejected` is the share of rows that may be bad; one bad row is always allowed. `path` is
    the file that keeps them; None keeps them nowhere.
    """

    path: Path | None
    max_rejected: float = 0.01
    seen: int = 0
    rejections: list[Rejection] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows were rejected; one row may have several reasons."""
        return len({(rejection.file, rejection.line) for rejection in self.rejections})

    def add(self, file: Path, line: int, name: str, reason: str) -> None:
        """Set a row aside; `name` is the field that is wrong, empty for the whole row."""
        self.rejections.append(Rejection(str(file), line, name, reason))

    def finish(self) -> None:
        """Write `rejected.jsonl` (or remove an old one) and fail if too many rows are in it.

        Raises: DataError with the count, the share and the first reason.
        """
        self.keep()
        if self.rows > max(1, self.max_rejected * self.seen):
            where = f"; all of them are in {self.path}" if self.path else ""
            raise DataError(
                f"{self._first()} ({self.rows} of {self.seen} rows rejected, "
                f"{self.rows / max(self.seen, 1):.1%}; data.max_rejected is "
                f"{self.max_rejected:.1%}{where})"
            )

    def keep(self) -> None:
        """Write `rejected.jsonl`, or remove an old one."""
        if self.path is None:
            return
        if self.rejections:
            write_jsonl(self.path, (asdict(rejection) for rejection in self.rejections))
        else:
            self.path.unlink(missing_ok=True)

    def no_good_row(self, file: Path) -> DataError:
        """The error for a source of which nothing is left; what is wrong with it is kept."""
        self.keep()
        mine = [rejection for rejection in self.rejections if rejection.file.startswith(str(file))]
        if mine:
            return DataError(f"{self._first(mine)} (no good row is left)")
        return DataError(f"{file}:1: no rows in it")

    def _first(self, rejections: list[Rejection] | None = None) -> str:
        first = (rejections or self.rejections)[0]
        name = f"{first.field}: " if first.field else ""
        return f"{first.file}:{first.line}: {name}{first.reason}"
