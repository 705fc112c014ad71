"""`omnitok encode`: pictures and clips become files of tokens or latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import MEDIA_HELP, NAMED_AFTER, RESULT_SUFFIXES, SkipOption, TokenizerLocation, grouped
from service.operations.options import EncodeOptions


@grouped()
def encode(
    media: Annotated[list[Path], typer.Argument(help=MEDIA_HELP)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help=f"File ({', '.join(RESULT_SUFFIXES)}), {NAMED_AFTER} (a.png: a.png.npz), or - for standard output.",
        ),
    ],
    location: TokenizerLocation,
    options: EncodeOptions,
    format: Annotated[
        str | None, typer.Option(help="npz, safetensors or msgpack.", show_default="by --out, or npz")
    ] = None,
    skip_existing: SkipOption = False,
) -> None:
    """Encode images and videos into tokens, or into latents.

    Videos of any length stream through bundles that are causal in time.
    `omnitok encode photo.jpg -o photo.npz` writes a file, `omnitok encode photos -o codes` one for each of a folder.
    """
    location.check(options.model)

    from rich.console import Console

    from service.cli.batch import STANDARD, InputFile, gather
    from service.cli.destination import Destination
    from service.cli.inputs import is_media
    from service.cli.outputs import output_file
    from service.cli.tokenizers import opened
    from service.formats.codes import write_codes

    def work(source: InputFile) -> None:
        target = destination.target(source, ".npz")
        result = tokenizer.encode(source, options)
        with output_file(target.path) as file:
            file.write(write_codes(result, target.media_type))
        pixels = "x".join(map(str, result.meta.size.as_tuple())) if result.meta.size else "?"
        grid = "x".join(map(str, result.grid))
        console.print(f"{target.path}: {pixels} pixels as {grid} positions of {result.meta.model}", markup=False)

    console = Console(stderr=out == STANDARD, highlight=False, soft_wrap=True)
    with gather(media, is_media, "a picture or a clip") as batch:
        destination = Destination(out, RESULT_SUFFIXES, format, batch, skip_existing)
        with opened(location) as tokenizer:
            batch.run(work)
