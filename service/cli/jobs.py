"""`omnitok jobs`: generations that a service makes while nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from service.cli.generate import SUFFIXES, chosen_prefix
from service.cli.options import KeyOption, grouped
from service.cli.progress import steps
from service.cli.tables import print_table
from service.formats.media_types import MSGPACK, ZIP
from service.operations.options_generate import GenerateOptions

if TYPE_CHECKING:
    from service.client import Client

FORMATS = {name: media_type for name, media_type in SUFFIXES.items() if name != ".npy"} | {
    ".zip": ZIP,
    ".msgpack": MSGPACK,
}
ANY = "*/*"  # the service's own choice: png, mp4, npz or zip

app = typer.Typer(help="Submit, list, fetch and cancel jobs of a service.", no_args_is_help=True)
Server = Annotated[str, typer.Option("--server", "--url", help="Address of the service.")]
LOCAL = "http://127.0.0.1:8000"
JobId = Annotated[str, typer.Argument(help="Id of the job.", metavar="id")]


@app.command()
@grouped(without={"preview"})
def submit(
    options: GenerateOptions,
    server: Server = LOCAL,
    api_key: KeyOption = None,
    image: Annotated[Path | None, typer.Option(help="Picture that the video begins with.")] = None,
    video: Annotated[Path | None, typer.Option(help="Clip that the video continues.")] = None,
    tokens: Annotated[Path | None, typer.Option(help="Tokens that the video continues.")] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Form of the content: png, mp4, zip ...", show_default="png, mp4, npz, or zip of several"),
    ] = None,
) -> None:
    """Submit a generation, and print the id of its job."""
    from service.cli.generate_remote import prefix_media

    if format is not None and f".{format}" not in FORMATS:
        known = ", ".join(name[1:] for name in FORMATS)
        raise typer.BadParameter(f"{format!r} is none of {known}.", param_hint="--format")
    given: Any = options.model_dump(exclude_unset=True)
    prefix = prefix_media(chosen_prefix(image, video, tokens))
    with _connected(server, api_key) as client:
        accept = ANY if format is None else FORMATS[f".{format}"]
        job = client.submit(given.pop("class_", None), prefix=prefix, accept=accept, **given)
    print(job.id)


@app.command("list")
def list_jobs(
    server: Server = LOCAL,
    api_key: KeyOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Jobs to list, the newest first.")] = 20,
) -> None:
    """List the jobs of this caller."""
    with _connected(server, api_key) as client:
        jobs = client.jobs(limit)
    rows = (
        (
            job.id,
            job.status,
            f"{job.done}/{job.total}",
            job.fields["model"],
            str(job.fields["seed"]),
            (job.error or {}).get("code") or job.media_type or "",
        )
        for job in jobs
    )
    print_table(("id", "status", "steps", "model", "seed", "content"), rows)


@app.command()
def fetch(
    job_id: JobId,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File, or - for standard output.", show_default="ID.png, ID.mp4 ..."),
    ] = None,
    server: Server = LOCAL,
    api_key: KeyOption = None,
) -> None:
    """Wait for a job, and write what it made."""
    from service.cli.outputs import output_file

    with _connected(server, api_key) as client:
        with steps("generating") as on_progress:
            for event in client.job_events(job_id):
                if event.name == "progress":
                    on_progress(event.fields["done"], event.fields["total"])
        job = client.wait(job_id)
        suffix = next((name for name, media_type in FORMATS.items() if media_type == job.media_type), "")
        path = out or Path(f"{job.id}{suffix}")
        with output_file(path) as file:
            file.write(client.content(job))
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"{path}: {job.media_type}", markup=False)


@app.command()
def cancel(job_id: JobId, server: Server = LOCAL, api_key: KeyOption = None) -> None:
    """Cancel a job; one that is finished is forgotten, with its content."""
    with _connected(server, api_key) as client:
        job = client.cancel(job_id)
    text = "cancelled" if job.status == "cancelled" else f"forgotten; it was {job.status}"
    Console(highlight=False, soft_wrap=True).print(f"{job.id}: {text}", markup=False)


@contextmanager
def _connected(server: str, api_key: str | None) -> Iterator[Client]:
    """Yield a client; its failures become the command's."""
    from service.cli.remote import connected, failures

    with connected(server, api_key) as client, failures():
        yield client
