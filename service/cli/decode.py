"""`omnitok decode`: a file of tokens or latents becomes a picture, a clip or an array of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.errors import CommandError
from service.cli.options import (
    PIXEL_SUFFIXES,
    BundleOption,
    DeviceOption,
    ModelOption,
    ServerOption,
    choose_bundle,
    refuse_both,
    type_of,
)

if TYPE_CHECKING:
    from service.cli.options import Device
    from service.formats.result import EncodeResult


def decode(
    tokens: Annotated[Path, typer.Argument(help="What `omnitok encode` or the service wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help=f"File to write: {', '.join(PIXEL_SUFFIXES)}.")],
    bundle: BundleOption = None,
    server: ServerOption = None,
    model: ModelOption = None,
    fps: Annotated[
        float | None, typer.Option(min=0.1, max=240, help="Frames per second. [default: those of the source, or 25]")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Decode tokens or latents into an image or a video."""
    refuse_both(server, bundle, model)
    media_type = type_of(out, PIXEL_SUFFIXES, "--out")
    result = _read_result(tokens)
    if server is not None:
        _decode_remotely(result, server, model, out, media_type, fps)
    else:
        _decode_here(result, choose_bundle(bundle), device, out, fps)

    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(f"{out}: {out.stat().st_size} bytes")


def _read_result(path: Path) -> EncodeResult:
    """Read the tokens or latents in a file, whatever its suffix."""
    from service.errors import ProblemError
    from service.formats.codes import read_codes

    try:
        return read_codes(path.read_bytes())
    except ProblemError as error:
        raise CommandError(f"{path} is not a sound file of tokens: {error.detail}") from error


def _decode_here(result: EncodeResult, bundle: Path, device: Device, out: Path, fps: float | None) -> None:
    from service.cli.offline import LocalTokenizer
    from service.cli.outputs import writing_pixels
    from service.cli.progress import tracked
    from service.operations.decode import plan_decode
    from service.operations.options import DecodeOptions

    tokenizer = LocalTokenizer(bundle, device)
    plan = plan_decode([tokenizer.card], result, DecodeOptions(fps=fps))
    frames = plan.size[0]
    with writing_pixels(out, frames, plan.fps) as write:
        for part in tracked(tokenizer.decode(plan), f"decoding to {out.name}", frames, len):
            write(part)


def _decode_remotely(
    result: EncodeResult, server: str, model: str | None, out: Path, media_type: str, fps: float | None
) -> None:
    from service.cli.atomic_write import replacing
    from service.cli.remote import client, query

    with client(server) as connection:
        data = connection.decode(result, accept=media_type, **query({"model": model, "fps": fps}, None))
    with replacing(out) as file:
        file.write(data)
