"""`omnitok decode`: files of tokens or latents become pictures, clips or arrays of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.errors import CommandError, sentence
from service.cli.options import NAMED_AFTER, PIXEL_SUFFIXES, RESULT_SUFFIXES, SkipOption, TokenizerLocation, grouped
from service.operations.options import DecodeOptions

if TYPE_CHECKING:
    from service.cli.batch import InputFile
    from service.formats.result import EncodeResult


@grouped(without={"bundle"})
def decode(
    tokens: Annotated[
        list[Path],
        typer.Argument(help="What `omnitok encode` or the service wrote, folders of it, or - for standard input."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help=f"File ({', '.join(PIXEL_SUFFIXES)}), {NAMED_AFTER} (a.png.npz: a.png, b.jpg.npz: b.jpg.png), "
            "or - for standard output.",
        ),
    ],
    location: TokenizerLocation,
    options: DecodeOptions,
    format: Annotated[
        str | None,
        typer.Option(help="png, webp, mp4, npy ...", show_default="by the file, or png of pictures, mp4 of clips"),
    ] = None,
    skip_existing: SkipOption = False,
) -> None:
    """Decode tokens or latents into images or videos.

    `omnitok decode photo.npz -o photo.png` writes a file, `omnitok decode codes -o pixels` one for each of a folder.
    """
    location.check(options.model)

    from rich.console import Console

    from service.cli.batch import STANDARD, gather
    from service.cli.destination import Destination
    from service.cli.tokenizers import opened

    def work(source: InputFile) -> None:
        result = _read(source)
        target = tokenizer.decode(source, result, options, lambda frames: destination.of_pixels(source, frames))
        size = "" if target.path == STANDARD else f": {target.path.stat().st_size} bytes"
        console.print(f"{target.path}{size}", markup=False)

    console = Console(stderr=out == STANDARD, highlight=False, soft_wrap=True)
    with gather(tokens, lambda path: path.suffix.lower() in RESULT_SUFFIXES, "a file of tokens by its name") as batch:
        destination = Destination(out, PIXEL_SUFFIXES, format, batch, skip_existing)
        with opened(location) as tokenizer:
            batch.run(work)


def _read(source: InputFile) -> EncodeResult:
    """Read the tokens or latents in a file, whatever its suffix."""
    from service.errors import ProblemError
    from service.formats.codes import read_codes

    try:
        return read_codes(source.path.read_bytes())
    except ProblemError as error:
        raise CommandError(f"{source.name} is not a sound file of tokens: {sentence(error)}") from error
