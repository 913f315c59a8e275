"""`clary`: one file a group of commands, put together here."""

from __future__ import annotations

import typer

from clary.cli import costs, daemon, demo, doctor, endpoints, environment, images, jobs, listings, logs

app = typer.Typer(
    name="clary",
    help="The SageMaker API on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(daemon.up)
app.command()(daemon.down)
app.command()(environment.env)
app.command()(listings.status)
app.command()(listings.ps)
app.command()(endpoints.deploy)
app.command()(endpoints.invoke)
app.command()(endpoints.park)
app.command()(jobs.jobs)
app.command()(logs.logs)
app.command()(costs.cost)
app.command()(doctor.doctor)
app.add_typer(images.app, name="image")
app.command()(demo.demo)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
