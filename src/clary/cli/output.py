"""How commands print: tables for people, JSON for programs, errors that say what, which and what next."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from clary.settings import default_data_dir

if TYPE_CHECKING:
    from rich.console import Console

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Data folder; CLARY_DATA or the default when left out.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]


# rich is imported when something is printed: `clary up` has then started its processes already.


@cache
def console() -> Console:
    """Where answers go."""
    from rich.console import Console

    return Console()


@cache
def errors() -> Console:
    """Where complaints and progress go."""
    from rich.console import Console

    return Console(stderr=True)


def data_dir(given: Path | None) -> Path:
    return given.absolute() if given is not None else default_data_dir()


def fail(message: str, code: int = 1) -> NoReturn:
    errors().print(f"[red]clary:[/red] {message}", highlight=False)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console().print(table)
