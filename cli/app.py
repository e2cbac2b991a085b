"""The `trajfile` command: its verbs, and how it ends.

Nothing heavy is imported here: a command imports what it needs when it runs, so that ``--help``
needs neither h5py nor torch.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from .exits import guarded

#: The verbs, in the order in which ``--help`` lists them; each is a module of `commands`.
VERBS = ("info", "analyze", "validate", "repair", "audit", "convert", "export", "metrics")

#: Those that are over in a moment, and in which no code of a user runs.
_BRIEF = {"info", "metrics", "--help", "-h", "--version"}


def build(verbs: Sequence[str] = VERBS) -> typer.Typer:
    """The command line.

    Args:
        verbs: The verbs it is to know: to carry out one, no other is looked at.

    Returns:
        The application.
    """
    app = typer.Typer(
        name="trajfile",
        help="Record a neural network's training trajectory once, and ask it questions later.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for verb in verbs:
        module = import_module(f".commands.{verb}", __package__)
        app.command()(guarded(getattr(module, verb)))
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from trajfile import __version__

        print(f"trajfile {__version__}")
        raise typer.Exit


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
    given = [*(sys.argv[1:] if argv is None else argv)]
    if given[:1] and given[0] in _BRIEF:
        # Else at the end all that is left is looked through for cycles, for as long as they take.
        atexit.register(gc.freeze)
    verbs = given[:1] if given[:1] and given[0] in VERBS else VERBS
    command = typer.main.get_command(build(verbs))
    guarded(command.main)(args=given, prog_name="trajfile")


if __name__ == "__main__":
    main()
