"""`python -m training`: the training commands on machines that have not installed the service."""

import os

import typer

from training.cli.data import data
from training.cli.evaluate import evaluate
from training.cli.rebind import rebind
from training.cli.train import train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data, name="data")
app.command()(train)
app.command()(evaluate)
app.command()(rebind)

if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as of `omnitok`
    app()
