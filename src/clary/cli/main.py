"""`clary`: one file a group of commands, imported when one of its commands is asked for.

So `clary up` is not kept waiting by what `clary invoke` needs.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

# Command -> (module, its function or, for a group, its app), in the order of the help text.
COMMANDS = {
    "up": ("clary.cli.daemon", "up"),
    "down": ("clary.cli.daemon", "down"),
    "env": ("clary.cli.environment", "env"),
    "status": ("clary.cli.listings", "status"),
    "ps": ("clary.cli.listings", "ps"),
    "deploy": ("clary.cli.endpoints", "deploy"),
    "invoke": ("clary.cli.endpoints", "invoke"),
    "park": ("clary.cli.endpoints", "park"),
    "jobs": ("clary.cli.jobs", "jobs"),
    "logs": ("clary.cli.logs", "logs"),
    "cost": ("clary.cli.costs", "cost"),
    "doctor": ("clary.cli.doctor", "doctor"),
    "image": ("clary.cli.images", "app"),
    "demo": ("clary.cli.demo", "demo"),
}


class Commands(TyperGroup):
    """The commands by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        found: Any = getattr(importlib.import_module(place[0]), place[1])
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(cmd_name)(found)
            found = alone
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="clary",
    help="The SageMaker API on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Commands,
)


@app.callback()
def main_options() -> None:
    """The SageMaker API on your own machines."""


def main() -> None:
    app()


if __name__ == "__main__":
    main()
