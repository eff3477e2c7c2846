"""Options that several commands take, as typer reads them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Config = Annotated[
    str, typer.Option(metavar="F", help="A YAML file, or the name of a config that ships.")
]
Stages = Annotated[Literal["sft", "rm", "ppo", "all"], typer.Option(help="What to run.")]
RunDirectoryOption = Annotated[
    Path | None, typer.Option(metavar="D", help="Default: runs/NAME, NAME from the config.")
]
Resume = Annotated[
    str,
    typer.Option(
        metavar="auto|never|PATH",
        help="Go on from the newest checkpoint; refuse a used run directory; or go on from this "
        "checkpoint.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. train.ranks=2."),
]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The directory of a run.")]
