"""`omnitok encode`: a picture or a clip becomes a file of tokens or latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import (
    MEDIA_HELP,
    RESULT_SUFFIXES,
    AnimatedOption,
    BundleOption,
    DeviceOption,
    EndOption,
    FitOption,
    FramesOption,
    ModelOption,
    SamplingOption,
    ServerOption,
    SizeOption,
    StartOption,
    StrideOption,
    choose_bundle,
    media_options,
    refuse_both,
    type_of,
)
from service.types import Want

if TYPE_CHECKING:
    from media.types import MediaOptions
    from service.cli.options import Device
    from service.formats.result import EncodeResult


def encode(
    media: Annotated[Path, typer.Argument(help=MEDIA_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help=f"File to write: {', '.join(RESULT_SUFFIXES)}.")],
    bundle: BundleOption = None,
    server: ServerOption = None,
    model: ModelOption = None,
    output: Annotated[
        Want | None, typer.Option(help="What to write. [default: tokens of a VQ bundle, latents of a VAE bundle]")
    ] = None,
    size: SizeOption = None,
    fit: FitOption = "cover",
    frames: FramesOption = None,
    sampling: SamplingOption = "first",
    stride: StrideOption = 1,
    start: StartOption = None,
    end: EndOption = None,
    animated: AnimatedOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Encode an image or a video into tokens. Videos of any length stream through bundles that are causal in time."""
    refuse_both(server, bundle, model)
    form = type_of(out, RESULT_SUFFIXES, "--out")
    options = media_options(size, fit, frames, sampling, stride, start, end, animated)
    if server is not None:
        result = _encode_remotely(media, server, model, output, options)
    else:
        result = _encode_here(media, choose_bundle(bundle), device, output, options)

    from rich.console import Console

    from service.cli.atomic_write import replacing
    from service.formats.codes import write_codes

    with replacing(out) as file:
        file.write(write_codes(result, form))
    pixels = "x".join(map(str, result.meta.size.as_tuple())) if result.meta.size else "?"
    grid = "x".join(map(str, result.grid))
    Console(highlight=False, soft_wrap=True).print(f"{out}: {pixels} pixels as {grid} positions of {result.meta.model}")


def _encode_here(media: Path, bundle: Path, device: Device, output: Want | None, options: MediaOptions) -> EncodeResult:
    from service.cli.inputs import open_media, rate, source_of
    from service.cli.offline import CountedFrames, LocalTokenizer
    from service.cli.progress import tracked
    from service.operations.clip import ClipInfo
    from service.operations.encode import plan_encode
    from service.operations.options import EncodeOptions

    tokenizer = LocalTokenizer(bundle, device)
    plan = plan_encode([tokenizer.card], EncodeOptions(output=output))
    with open_media(media, options) as reader:
        frames = CountedFrames(tracked(reader, f"encoding {media.name}", reader.expected))
        tokens, latents = tokenizer.encode(frames, plan.want)
        clip = ClipInfo(frames.size, rate(reader), source_of(reader), reader.preprocess)
    return plan.result(tokens, latents, clip)


def _encode_remotely(
    media: Path, server: str, model: str | None, output: Want | None, options: MediaOptions
) -> EncodeResult:
    from service.cli.inputs import is_array
    from service.cli.remote import client, query, read_array

    chosen = {"model": model, "output": output}
    with client(server) as connection:
        if is_array(media):
            return connection.encode(read_array(media, options), **query(chosen, None))
        return connection.encode(media, **query(chosen, options))
