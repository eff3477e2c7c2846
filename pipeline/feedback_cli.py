"""`align feedback`: look at raw feedback, convert it, and ask judge models for more.

As in `cli.py`, heavy modules are imported inside the command that needs them.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from align.data.errors import UserError

feedback = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
)
Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE...", help="Files, or folders of known exports. Without: those of --config."
    ),
]
Format = Annotated[str, typer.Option(metavar="F", help="How the files look; see the README.")]
Config = Annotated[
    str | None,
    typer.Option(metavar="F", help="Its data.feedback without FILE..., and its settings."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. feedback.ties=drop."),
]
Folder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Also write files, to this folder.")
]


@feedback.callback()
def commands(context: typer.Context) -> None:
    """Check, inspect and convert raw feedback; measure annotators; ask judge models."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@feedback.command()
def validate(
    files: Files = None,
    format: Format = "records",
    config: Config = None,
    overrides: Overrides = None,
    out: Folder = None,
) -> None:
    """Count good records, and say what is wrong with bad rows."""
    from align.pipeline.feedback_sources import asked, folder_apart
    from align.pipeline.feedback_validate import validate

    wanted = asked(files or (), format, config, overrides or ())
    validate(wanted, out and folder_apart(out, wanted))


@feedback.command()
def convert(
    out: Annotated[Path, typer.Option(metavar="PATH", help="The table: pairs.parquet.")],
    files: Files = None,
    format: Format = "records",
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Turn feedback of every kind into preference pairs."""
    from align.pipeline.feedback_convert import convert
    from align.pipeline.feedback_sources import asked

    convert(asked(files or (), format, config, overrides or ()), out)


@feedback.command()
def inspect(
    files: Files = None,
    format: Format = "records",
    config: Config = None,
    overrides: Overrides = None,
    out: Folder = None,
) -> None:
    """Count by kind, criterion, annotator and source; rates of ties and conflicts; biases."""
    from align.pipeline.feedback_inspect import inspect
    from align.pipeline.feedback_sources import asked, folder_apart

    wanted = asked(files or (), format, config, overrides or ())
    inspect(wanted, out and folder_apart(out, wanted))


@feedback.command()
def agreement(
    files: Files = None,
    format: Format = "records",
    config: Config = None,
    overrides: Overrides = None,
    out: Folder = None,
    ties: Annotated[
        Literal["half_win", "davidson", "rao_kupper"],
        typer.Option(help="What a tie is worth in ratings of players."),
    ] = "half_win",
    next_battles: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also say which N battles to collect next.")
    ] = 0,
    gold_by: Annotated[
        list[str] | None,
        typer.Option(metavar="ANNOTATOR", help="Whose judgements of gold items are right."),
    ] = None,
) -> None:
    """Measure annotators against each other and against gold; rate the players of battles."""
    from align.pipeline.feedback_agreement import agreement
    from align.pipeline.feedback_sources import asked, folder_apart

    wanted = asked(files or (), format, config, overrides or ())
    agreement(wanted, out and folder_apart(out, wanted), ties, next_battles, gold_by or ())


@feedback.command()
def judge(
    out: Annotated[Path, typer.Option(metavar="PATH", help="The records: judged.jsonl.")],
    files: Files = None,
    format: Annotated[
        str,
        typer.Option(
            metavar="F", help='As elsewhere, or answers: rows of {"prompt": ..., "answers": [...]}.'
        ),
    ] = "records",
    config: Config = None,
    overrides: Overrides = None,
    rubric: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Grade each answer: refusal, helpfulness, honesty."),
    ] = None,
    pairwise: Annotated[
        str | None, typer.Option(metavar="CRITERION", help="Compare two answers at a time.")
    ] = None,
    prompt_class: Annotated[
        Literal["harmful", "benign", "unknown"],
        typer.Option(help="What is known of the prompts; the rubric's rewards depend on it."),
    ] = "unknown",
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Take out the judge's liking of letters.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(metavar="PATH", help="A causal model that judges here.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server: .../v1.")
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The judge, as the server calls it.")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable with the API key.")
    ] = None,
) -> None:
    """Ask a language model about answers, as one more annotator; writes raw records."""
    from align.pipeline.feedback_judge import endpoint_judge, judge, local_judge, task_of
    from align.pipeline.feedback_sources import asked

    bare = format == "answers"
    wanted = asked(files or (), "records" if bare else format, config, overrides or ())
    task = task_of(rubric, pairwise, prompt_class, calibrated)
    if (model is None) == (endpoint is None):
        raise UserError("give one of --model PATH and --endpoint URL")
    if endpoint is not None:
        who = endpoint_judge(endpoint, endpoint_model, key_variable, out)
    else:
        who = local_judge(str(model), wanted.config)
    judge(wanted, bare, task, who, out)
