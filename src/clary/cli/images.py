"""`clary image`: which environment stands in for an image, and building it ahead of time."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from clary.cli.local import Local
from clary.cli.output import DataOption, JsonOption, console, data_dir, errors, print_json, print_table
from clary.images.environments import MARKER
from clary.settings import from_json

app = typer.Typer(
    help="Images and the environments that stand in for them.", no_args_is_help=True, add_completion=False
)

ImageArgument = Annotated[str, typer.Argument(help="clary/sklearn, clary/xgboost:3.0.5, or an AWS image URI.")]


@app.command()
def explain(image: ImageArgument, data: DataOption = None) -> None:
    """Tell how an image resolves on this host, line by line."""
    for line in Local(data_dir(data)).control("explain", image=image)["lines"]:
        console().print(line, highlight=False)


@app.command()
def pull(image: ImageArgument, data: DataOption = None) -> None:
    """Build an image's environment now, so that the first endpoint need not wait for it."""
    with errors().status(f"building the environment of {image} ..."):
        made = Local(data_dir(data)).control("pull", image=image)
    console().print(
        f"{made['resolved_image']} is built; {made['note'] or 'exactly what was asked for'}", highlight=False
    )


@app.command("list")
def listed(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the environments that are built."""
    local = Local(data_dir(data))
    settings = from_json(local.layout.settings.read_text()) if local.layout.settings.exists() else None
    place = local.layout.data
    if settings is not None and settings.environments_dir:
        place = type(place)(settings.environments_dir)
    found: list[dict[str, Any]] = [
        json.loads(marker.read_text()) for marker in sorted((place / "envs").glob(f"[!.]*/{MARKER}"))
    ]
    if as_json:
        print_json(found)
        return
    rows = [
        (one["framework"], one["framework_version"], one["python"], len(one["lock"]), one["digest"][:12])
        for one in found
    ]
    print_table("", ("FRAMEWORK", "VERSION", "PYTHON", "PACKAGES", "DIGEST"), rows)
