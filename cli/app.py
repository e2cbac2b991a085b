"""The `trajfile` command: its verbs, and how it ends.

Nothing heavy is imported here: a command imports what it needs when it runs, so that ``--help``
needs neither h5py nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from .commands.analyze import analyze
from .commands.audit import audit
from .commands.convert import convert
from .commands.export import export
from .commands.info import info
from .commands.metrics import metrics
from .commands.repair import repair
from .commands.validate import validate
from .exits import guarded

app = typer.Typer(
    name="trajfile",
    help="Record a neural network's training trajectory once, and ask it questions later.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (info, analyze, validate, repair, audit, convert, export, metrics):
    app.command()(guarded(command))


def _version(wanted: bool) -> None:
    if wanted:
        from trajfile import __version__

        print(f"trajfile {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version  # its callback did the work


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and end the process.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Raises:
        SystemExit: Always; with an exit code as `trajfile_cli.exits` defines them.
    """
    command = typer.main.get_command(app)
    guarded(command.main)(args=None if argv is None else list(argv), prog_name="trajfile")


if __name__ == "__main__":
    main()
