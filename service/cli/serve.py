"""`omnitok serve`: the whole service on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.options import DEFAULT_BUNDLE, Device, read_settings
from service.cluster.start_log import StartLog


def serve(
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            "--bundle",
            "-b",
            help="Tokenizer bundle; repeat for more, the default first.",
            show_default=str(DEFAULT_BUNDLE),
        ),
    ] = None,
    generator: Annotated[
        list[Path] | None,
        typer.Option(
            "--generator", "-g", help="Generator bundle; repeat for more, the default first.", show_default="none"
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8000")] = None,
    replicas: Annotated[int | None, typer.Option(help="Tokenizer replicas: one per GPU.", show_default="1")] = None,
    keys: Annotated[Path | None, typer.Option(help="File of callers' keys, made by `omnitok keys add`.")] = None,
    open_access: Annotated[
        bool | None,
        typer.Option("--open-access", help="Serve without keys on any address, behind a gateway or a firewall."),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Where the tokenizers run.", show_default="auto")] = None,
) -> None:
    """Start the service and stay until Ctrl-C.

    What is not given here comes from OMNITOK_* variables (docs/settings.md).
    `omnitok serve --bundle bundles/demo-vq --generator bundles/demo-lm` serves the demo.
    """
    start = StartLog()
    given: dict[str, Any] = {
        "bundles": tuple(bundle) if bundle else None,
        "generators": tuple(generator) if generator else None,
        "host": host,
        "port": port,
        "tokenizer_replicas": replicas,
        "device": device,
        "keys": keys.resolve() if keys else None,
        "open_access": open_access,
    }
    settings = read_settings(**{key: value for key, value in given.items() if value is not None})
    from service.cluster.app import serve_forever
    from service.keys import check_access

    check_access(settings)
    serve_forever(settings, start)
