"""Arguments and options that several commands share, and how they become typed values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.cli.errors import CommandError

if TYPE_CHECKING:
    from media.types import MediaOptions

DEFAULT_BUNDLE = Path("bundles/demo-vq")


Fit = Literal["cover", "contain", "stretch"]
Sampling = Literal["first", "uniform", "stride"]
Device = Literal["auto", "cpu", "cuda"]

PICTURE_SUFFIXES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
CLIP_SUFFIXES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
ARRAY_SUFFIX = ".npy"
PIXEL_SUFFIXES = {**PICTURE_SUFFIXES, **CLIP_SUFFIXES, ARRAY_SUFFIX: "application/x-npy"}
RESULT_SUFFIXES = {
    ".npz": "application/x-npz",
    ".safetensors": "application/vnd.safetensors",
    ".msgpack": "application/msgpack",
}

MEDIA_HELP = "Image, video, or .npy of uint8 (H, W, 3) or (T, H, W, 3)."

BundleOption = Annotated[
    Path | None, typer.Option("--bundle", "-b", help=f"Bundle folder. [default: {DEFAULT_BUNDLE}]")
]
ServerOption = Annotated[str | None, typer.Option("--server", help="Work through the service at this URL.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model id, where --server serves several.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to run offline.")]
SizeOption = Annotated[str | None, typer.Option("--size", help="Resize to N or HEIGHTxWIDTH pixels.")]
FitOption = Annotated[Fit, typer.Option("--fit", help="How the picture fills --size.")]
FramesOption = Annotated[int | None, typer.Option("--frames", min=1, help="Keep at most this many frames.")]
SamplingOption = Annotated[Sampling, typer.Option("--sampling", help="Which frames --frames keeps.")]
StrideOption = Annotated[int, typer.Option("--stride", min=1, help="Keep every n-th frame, with --sampling stride.")]
StartOption = Annotated[
    float | None, typer.Option("--start-s", "--start", min=0, help="Skip what comes before, seconds.")
]
EndOption = Annotated[float | None, typer.Option("--end-s", "--end", min=0, help="Stop here, seconds.")]
AnimatedOption = Annotated[bool, typer.Option("--animated", help="Take an animated picture as a clip.")]


def type_of(path: Path, types: dict[str, str], option: str) -> str:
    """The media type that a file's suffix stands for.

    Args:
        path: the file to write.
        types: media types by suffix.
        option: where the path was given.

    Raises:
        typer.BadParameter: the suffix is none of these.
        CommandError: there is no folder to write it into; told before any work is done.
    """
    media_type = types.get(path.suffix.lower())
    if media_type is None:
        raise typer.BadParameter(f"{path.name!r} ends in none of {', '.join(types)}", param_hint=option)
    if not path.parent.is_dir():
        raise CommandError(f"{path.parent} is not a folder, so {path.name} cannot be written there")
    return media_type


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of "128" or "96x128".

    Raises:
        typer.BadParameter: it is neither.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is neither N nor HEIGHTxWIDTH, such as 128 or 96x128", param_hint="--size")
    return int(parts[0]), int(parts[-1])


def media_options(
    size: str | None,
    fit: Fit,
    frames: int | None,
    sampling: Sampling,
    stride: int,
    start: float | None,
    end: float | None,
    animated: bool,
) -> MediaOptions:
    """The options of the media commands as one value.

    Raises:
        typer.BadParameter: they contradict each other.
    """
    from media.types import MediaOptions

    if stride != 1 and sampling != "stride":
        raise typer.BadParameter("a stride needs --sampling stride", param_hint="--stride")
    if end is not None and end <= (start or 0.0):
        raise typer.BadParameter("the end must be later than the start", param_hint="--end")
    return MediaOptions(parse_size(size), fit, frames, sampling, stride, start, end, animated)


def choose_bundle(bundle: Path | None) -> Path:
    """The bundle that was named, or the default one.

    Raises:
        CommandError: none was named and the default one is not there.
    """
    if bundle is not None:
        return bundle
    if not DEFAULT_BUNDLE.is_dir():
        raise CommandError(f"no bundle was named and {DEFAULT_BUNDLE} does not exist here; use --bundle or --server")
    return DEFAULT_BUNDLE


def refuse_both(server: str | None, bundle: Path | None, model: str | None) -> None:
    """Raises `typer.BadParameter` when options of offline work and of a server are mixed."""
    if server is not None and bundle is not None:
        raise typer.BadParameter("a server uses its own bundles; name one of them with --model", param_hint="--bundle")
    if server is None and model is not None:
        raise typer.BadParameter("this names a model of a server; offline, use --bundle", param_hint="--model")
