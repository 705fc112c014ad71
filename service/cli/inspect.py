"""`omnitok inspect`: what the network is fed, as arrays, as a contact sheet, and in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import ARRAY_SUFFIX, MEDIA_HELP, NAMED_AFTER, grouped
from service.formats.media_types import NPY
from service.operations.options import MediaRequest

if TYPE_CHECKING:
    from rich.console import Console

    from media.frame_reader import FrameReader
    from media.types import MediaOptions
    from service.cli.batch import InputFile
    from service.cli.contact_sheet import ContactSheet
    from service.cli.destination import Target


@grouped(without={"model"})
def inspect(
    media: Annotated[list[Path], typer.Argument(help=MEDIA_HELP)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help=f"File of pixels (.npy), uint8 (T, H, W, 3), or {NAMED_AFTER}.")
    ],
    options: MediaRequest,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Contact sheet to write, a .png.")] = None,
) -> None:
    """Show what the network is fed: write the pixels of every file, and print how they were read."""
    from service.cli.batch import STANDARD, gather

    if out == STANDARD:
        raise typer.BadParameter("Standard output has the descriptions; name a file or a folder.", param_hint="--out")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise typer.BadParameter(f"{sheet.name!r} does not end in .png.", param_hint="--sheet")

    from rich.console import Console
    from rich.text import Text

    from service.cli.contact_sheet import ContactSheet
    from service.cli.destination import Destination
    from service.cli.inputs import is_media
    from service.cli.outputs import output_file

    console, rows = Console(highlight=False, soft_wrap=True), ContactSheet()

    def work(source: InputFile) -> None:
        _inspect(source, options.media(), destination.target(source, ARRAY_SUFFIX), console, rows)

    def report(event: str, name: str, reason: str) -> None:
        heading = f"{name}\n", "bold"
        if event == "failed":
            console.print(Text.assemble(heading, ("  error        ", "bold red"), reason))
            rows.add(reason, [], "red")
        else:
            console.print(Text.assemble(heading, f"  skipped      {reason}"))

    with gather(media, is_media, "a picture or a clip") as batch:
        destination = Destination(out, {ARRAY_SUFFIX: NPY}, None, batch)
        try:
            batch.run(work, report)
        finally:
            if sheet is not None:
                with output_file(sheet) as file:
                    rows.image().save(file, "PNG")


def _inspect(source: InputFile, options: MediaOptions, target: Target, console: Console, rows: ContactSheet) -> None:
    """Write one file's pixels, print its description and add its row to the sheet."""
    from rich.text import Text

    from media.spread import spread
    from service.cli.contact_sheet import THUMBS
    from service.cli.inputs import open_media
    from service.cli.outputs import writing_pixels
    from service.cli.progress import tracked

    kept, thumbs = 0, []
    with (
        open_media(source.path, options, source.name) as reader,
        writing_pixels(target, reader.expected, 1.0) as write,
    ):
        shown = set(spread(reader.expected, THUMBS))
        for frame in tracked(reader, source.name, reader.expected):
            write(frame[None])
            if kept in shown:
                thumbs.append(frame)
            kept += 1
        lines = describe(reader, options, kept)  # a small JPEG is opened a second time for its details
    height, width = thumbs[0].shape[:2]
    lines["array"] = f"{target.path} ({kept}, {height}, {width}, 3)"
    text = Text.assemble((source.name, "bold"), *(f"\n  {name:<12} {line}" for name, line in lines.items()))
    console.print(text)
    rows.add(f"{source.relative.name}: {kept} x {height}x{width}", thumbs)


def describe(reader: FrameReader, options: MediaOptions, kept: int) -> dict[str, str]:
    """Describe an open file that was read to its end, in lines by subject."""
    info, details = reader.info(), reader.details()
    stored, shown = f"{details.height}x{details.width}", f"{info.height}x{info.width}"
    lines = {
        "container": f"{details.container} ({info.media_type})",
        "codec": info.codec,
        "size": shown if shown == stored else f"{shown}, stored as {stored}",
        "orientation": details.orientation,
        "colour": details.colour,
    }
    if details.aspect != 1:
        lines["size"] += f" with pixels of {details.aspect.numerator}:{details.aspect.denominator}"
    if reader.is_video and info.fps is not None:
        duration = "" if info.duration_s is None else f" in {info.duration_s:.3f} s"
        lines["rate"] = f"{info.fps:.3f} frames per second, {info.frames_in} frames{duration}"
    lines["frames"] = _kept(reader, options, kept)
    steps = reader.preprocess
    done = [
        f"resized to {steps.resize[0]}x{steps.resize[1]}" if steps.resize else "",
        "cropped to {2}x{3} at row {0}, column {1}".format(*steps.crop) if steps.crop else "",
        "padded to {2}x{3} at row {0}, column {1}".format(*steps.pad) if steps.pad else "",
    ]
    lines["geometry"] = ", ".join(filter(None, done)) or "as it is"
    return lines


def _kept(reader: FrameReader, options: MediaOptions, kept: int) -> str:
    """Say how many frames were kept, and why these."""
    if not reader.is_video:
        return "1, the first of an animation; --animated keeps more" if reader.details().is_animated else "1, a picture"
    info = reader.info()
    start, end = options.start_s, options.end_s
    every = options.stride if options.sampling == "stride" else 1
    reasons = [
        f"from {start:g} s" if start else "",
        f"before {end:g} s" if end is not None else "",
        f"one in {every}" if every > 1 else "",
    ]
    if options.frames is not None and options.frames <= reader.expected:
        reasons.append(f"{options.frames} spread evenly" if options.sampling == "uniform" else f"the first {kept}")
    elif options.frames is not None:
        reasons.append(f"fewer than the {options.frames} asked for")
    reason = ", ".join(filter(None, reasons)) or "all"
    times = info.sampled_pts
    span = f", at {times[0]:.3f} s to {times[-1]:.3f} s" if times else ""
    lost = f"; {reader.expected - kept} could not be decoded" if kept < reader.expected else ""
    return f"{kept} of {info.frames_in}: {reason}{span}{lost}"
