"""`align data`: look at what SFT will learn, and write it.

As in `cli.py`, heavy modules are imported inside the command that needs them.
"""

from pathlib import Path
from typing import Annotated

import typer

from align.pipeline.options import Config, Overrides, RunDirectoryOption

data = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@data.callback()
def commands(context: typer.Context) -> None:
    """Inspect and build the instructions that SFT learns."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@data.command()
def inspect(
    config: Config,
    run_dir: RunDirectoryOption = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write inspect.json and inspect.html.")
    ] = None,
) -> None:
    """Rows, draws, tokens, copies, cuts and wordings by source and task; examples as rendered."""
    from align.pipeline.inputs import check_inputs
    from align.pipeline.loading import load_config

    settings = load_config(config, overrides or ())
    check_inputs(settings, ("sft",))
    from align.pipeline.data_inspect import inspect

    inspect(settings, (run_dir or Path("runs") / settings.name).absolute(), out)


@data.command()
def build(config: Config, run_dir: RunDirectoryOption = None, overrides: Overrides = None) -> None:
    """Write what SFT learns to RUN_DIR/data; `align run` uses it while no input has changed."""
    from align.pipeline.inputs import check_inputs
    from align.pipeline.loading import load_config

    settings = load_config(config, overrides or ())
    check_inputs(settings, ("sft",))
    from align.pipeline.data_inspect import build

    build(settings, (run_dir or Path("runs") / settings.name).absolute())
