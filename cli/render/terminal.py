"""The terminal a screen is made for: how wide, with colours or not, in which characters."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable
from typing import Literal, TextIO

from rich.console import Console
from rich.text import Text
from rich.theme import Theme

from .spark import BLOCKS
from .text import THIN, clean

#: Named by meaning. Only the sixteen colours a terminal's own theme defines, and no background,
#: so that a screen reads on dark and light alike; what matters is never set fainter than text.
_THEME = Theme(
    {
        "title": "bold",
        "accent": "cyan",
        "verdict": "bold",
        "error": "bold red",
        "warn": "yellow",
        "info": "blue",
        "good": "green",
        "aside": "dim",
    }
)

Fit = Literal["wrap", "cut", "whole"]

_OVERFLOW: dict[Fit, Literal["fold", "ellipsis", "ignore"]] = {
    "wrap": "fold",
    "cut": "ellipsis",
    "whole": "ignore",
}

_PIPED_WIDTH = 100
_NARROWEST, _WIDEST = 60, 120

#: What to write where the output's encoding lacks a character; the blocks keep their width.
_ASCII = str.maketrans(
    {
        **dict(zip(BLOCKS, "_.,-=+*#", strict=True)),
        THIN: "",
        "·": "-",
        "–": "-",
        "—": "-",
        "−": "-",
        "…": "...",
        "→": "->",
        "×": "x",
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "‖": "||",
        "²": "^2",
        "√": "sqrt",
        "Σ": "sum",
        "θ": "theta",
        "Δ": "d",
        "η": "eta",
        "λ": "lambda",
        "γ": "gamma",
        "ρ": "rho",
        "δ": "delta",
        "β": "beta",
        "π": "pi",
        "₁": "_1",
        "⟨": "<",
        "⟩": ">",
    }
)


class Terminal:
    """Where results go.

    Attributes:
        width: Columns to fill at most.
        interactive: Whether a person watches, rather than a file or another program.
    """

    def __init__(self, stream: TextIO | None = None):
        # A program started without a stdout has None there; print() is silent then, as is this.
        self._stream = stream or sys.stdout or io.StringIO()
        self._encoding = self._stream.encoding or "utf-8"  # None: kept as text in memory
        self.interactive = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self.interactive and not os.environ.get("NO_COLOR")
        self.width = min(max(_columns(self.interactive), _NARROWEST), _WIDEST)
        try:
            (BLOCKS + THIN + "θ‖²·–…→").encode(self._encoding)
            self._unicode = True
        except (UnicodeError, LookupError):
            self._unicode = False

        self._console = Console(
            file=self._stream,
            width=self.width,
            color_system="auto" if self._colour else None,
            force_terminal=self._colour,
            theme=_THEME,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
            soft_wrap=False,
        )

    def text(self, value: object, style: str = "") -> Text:
        """A piece of a screen, made harmless by `clean` and fit for the output's encoding.

        Thin separators stay only where a person watches, so that ``grep 12000`` finds its line.

        Args:
            value: Anything; its ``str`` is taken.
            style: A name of the theme, or none.

        Returns:
            Text that no terminal will take for more than text.
        """
        string = clean(value)
        if not self._unicode:
            string = string.translate(_ASCII)
        elif not self.interactive:
            string = string.replace(THIN, "")
        return Text(string, style)

    def line(self, *parts: Text | str | tuple[object, str]) -> Text:
        """Several pieces in a row: plain, or with a style, or already made."""
        joined = Text()
        for part in parts:
            if isinstance(part, Text):
                joined.append_text(part)
            elif isinstance(part, str):
                joined.append_text(self.text(part))
            else:
                joined.append_text(self.text(*part))
        return joined

    def wrapped(self, text: Text, width: int) -> list[Text]:
        """The text broken between words into lines of at most `width` columns."""
        if text.cell_len <= width:
            return [text]
        return [line for line in text.wrap(self._console, width, overflow="fold") if line]

    def lines(self, *blocks: Text, fit: Fit = "wrap") -> list[str]:
        """Lay out blocks into finished lines of text, with colours if the terminal has them.

        Args:
            blocks: What to lay out, one below the other.
            fit: What becomes of a line wider than the terminal: it is wrapped, cut short, or
                left whole, for what is to be pasted or searched.

        Returns:
            The lines, without line ends.
        """
        with self._console.capture() as capture:
            for block in blocks:
                self._console.print(
                    block,
                    no_wrap=fit != "wrap",
                    overflow=_OVERFLOW[fit],
                    crop=fit != "whole",
                )
        lines = capture.get().split("\n")[:-1]
        return lines if self._colour else [line.rstrip() for line in lines]

    def write(self, lines: Iterable[str]) -> None:
        """Write finished lines; what the encoding still lacks becomes a question mark."""
        text = "".join(f"{line}\n" for line in lines)
        if not self._unicode:
            text = text.translate(_ASCII)  # the ellipses of lines that were cut
        self._stream.write(text.encode(self._encoding, "replace").decode(self._encoding))

    def show(self, *blocks: Text, fit: Fit = "wrap") -> None:
        """Lay out and write."""
        self.write(self.lines(*blocks, fit=fit))


def _columns(interactive: bool) -> int:
    if interactive:
        return shutil.get_terminal_size((_PIPED_WIDTH, 40)).columns
    stated = os.environ.get("COLUMNS", "")
    return int(stated) if stated.isdecimal() and int(stated) else _PIPED_WIDTH
