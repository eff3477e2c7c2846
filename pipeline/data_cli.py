"""`align data`: look at what SFT will learn, and write it.

As in `cli.py`, heavy modules are imported inside the command that needs them.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from align.data.errors import UserError
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
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: this is a file: name a folder")
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


@data.command()
def generate(
    seeds: Annotated[Path, typer.Argument(metavar="SEEDS", help="Seed tasks, or Alpaca rows.")],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="The rows: made.jsonl; goes on with one.")
    ],
    method: Annotated[
        Literal["self_instruct", "unnatural", "alpaca"], typer.Option(help="How they are written.")
    ] = "self_instruct",
    rows: Annotated[int, typer.Option(min=1, help="Rows that the file gets, at most.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of all random choices.")] = 1,
    model: Annotated[
        str | None, typer.Option(metavar="PATH", help="A causal model that writes here.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server: .../v1.")
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The writer, as the server calls it.")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable with the API key.")
    ] = None,
) -> None:
    """Have a language model write instructions from those that people wrote."""
    if (model is None) == (endpoint is None):
        raise UserError("give one of --model PATH and --endpoint URL")
    if endpoint is not None and endpoint_model is None:
        raise UserError("--endpoint needs --endpoint-model, the writer's name at the server")
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: give a name that ends in .jsonl")
    from align.pipeline.data_generate import generate
    from align.pipeline.writers import endpoint_writer, local_writer
    from align.reward.judge.posting import endpoint_at

    if endpoint is not None:
        server = endpoint_at(endpoint, str(endpoint_model), key_variable)
        generate(seeds, method, endpoint_writer(server), server.model, rows, seed, out)
    else:
        generate(seeds, method, local_writer(str(model), seed), str(model), rows, seed, out)
