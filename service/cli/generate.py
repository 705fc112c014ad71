"""`omnitok generate`: new pictures and clips by class, and the continuation of given ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.batch import STANDARD
from service.cli.errors import CommandError, sentence
from service.cli.generators import GeneratorLocation, Prefix
from service.cli.options import CLIP_SUFFIXES, LOSSY, PICTURE_SUFFIXES, PIXEL_SUFFIXES, RESULT_SUFFIXES, grouped
from service.operations.options_generate import GenerateOptions

if TYPE_CHECKING:
    from service.formats.samples import Samples

SUFFIXES = {**PIXEL_SUFFIXES, **RESULT_SUFFIXES}


@grouped(without={"output", "preview"})
def generate(
    location: GeneratorLocation,
    options: GenerateOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help=f"File of one sample ({', '.join(SUFFIXES)}), folder of 00.png, 01.png ..., or - for standard output.",
        ),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help=f"Write all samples as one picture ({', '.join(PICTURE_SUFFIXES)}).")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Picture that the video begins with.")] = None,
    video: Annotated[Path | None, typer.Option(help="Clip that the video continues.")] = None,
    tokens: Annotated[Path | None, typer.Option(help="Tokens that the video continues.")] = None,
    format: Annotated[
        str | None,
        typer.Option(help="png, webp, mp4, npy, npz ...", show_default="by the file, or png of pictures, mp4 of clips"),
    ] = None,
) -> None:
    """Generate images or videos of a class, or continue a picture or a clip.

    `omnitok generate --class coinrun -o coinrun.png` makes a picture, `-o coinrun.mp4` a clip.
    """
    location.check(options.model)
    prefix = chosen_prefix(image, video, tokens)
    suffix = _suffix(out, grid, format, options.n)
    options = _for_file(options, suffix)
    in_tokens = suffix in RESULT_SUFFIXES
    output = "pixels" if not in_tokens else "both" if grid else "tokens"

    from rich.console import Console

    from service.cli.generators import opened
    from service.cli.progress import steps

    with opened(location, options.n) as generator, steps("generating") as on_progress:
        samples = generator.generate(prefix, options.model_copy(update={"output": output}), on_progress)
    console = Console(stderr=out == STANDARD, highlight=False, soft_wrap=True)
    meta = samples.meta
    about = f"{meta.model}, seed {meta.seed}" + ("" if meta.class_id is None else f", class {meta.class_id}")
    about += f" ({meta.class_name})" if meta.class_name else ""
    for path in _write(samples, out, suffix, options, grid):
        console.print(f"{path}: {about}", markup=False)


def chosen_prefix(image: Path | None, video: Path | None, tokens: Path | None) -> Prefix | None:
    """Return the frames to continue, of which a caller may name one kind.

    Raises:
        typer.BadParameter: more than one was named.
        CommandError: the file of tokens is not sound.
    """
    given = [path for path in (image, video, tokens) if path is not None]
    if len(given) > 1:
        raise typer.BadParameter("A video has one beginning; name one of --image, --video and --tokens.")
    if tokens is not None:
        from service.errors import ProblemError
        from service.formats.codes import read_codes

        try:
            return read_codes(tokens.read_bytes())
        except ProblemError as error:
            raise CommandError(f"{tokens} is not a sound file of tokens: {sentence(error)}") from error
    return given[0] if given else None


def _suffix(out: Path | None, grid: Path | None, format: str | None, n: int) -> str | None:
    """Return the suffix of the files to write, or None for the default of what is made."""
    if out is None and grid is None:
        raise typer.BadParameter("Name a file or a folder to write.", param_hint="--out")
    if grid is not None and grid.suffix.lower() not in PICTURE_SUFFIXES:
        raise typer.BadParameter(f"{grid.name!r} ends in none of {', '.join(PICTURE_SUFFIXES)}.", param_hint="--grid")
    if format is not None and f".{format}" not in SUFFIXES:
        known = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise typer.BadParameter(f"{format!r} is none of {known}.", param_hint="--format")
    if out is None or out == STANDARD or _is_folder(out):
        if out == STANDARD and n > 1:
            raise typer.BadParameter(f"Standard output holds one sample, not {n}; name a folder.", param_hint="--out")
        return None if format is None else f".{format}"
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise typer.BadParameter(f"{out.name!r} ends in none of {', '.join(SUFFIXES)}.", param_hint="--out")
    if n > 1:
        raise typer.BadParameter(f"{out.name} names one file, not {n}; name a folder.", param_hint="--out")
    if format is not None and SUFFIXES[suffix] != SUFFIXES[f".{format}"]:
        raise typer.BadParameter(f"{out.name!r} does not go with --format {format}.", param_hint="--out")
    return suffix


def _for_file(options: GenerateOptions, suffix: str | None) -> GenerateOptions:
    """Return the options with the kind that the files can hold, where they name none.

    Raises:
        typer.BadParameter: the files cannot hold what is asked for.
    """
    if suffix in PICTURE_SUFFIXES and (options.frames or (options.kind == "video") + 1) > 1:
        what = f"{options.frames} frames" if options.frames else "a video"
        raise typer.BadParameter(f"A file {suffix} holds one picture, not {what}.", param_hint="--out")
    if options.quality is not None and PIXEL_SUFFIXES.get(suffix or "") not in LOSSY:
        raise typer.BadParameter(f"It is for files that are {' or '.join(LOSSY)}.", param_hint="--quality")
    if options.kind is None and options.frames is None and suffix in {**PICTURE_SUFFIXES, **CLIP_SUFFIXES}:
        return options.model_copy(update={"kind": "image" if suffix in PICTURE_SUFFIXES else "video"})
    return options


def _is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix


def _write(
    samples: Samples, out: Path | None, suffix: str | None, options: GenerateOptions, grid: Path | None
) -> list[Path]:
    """Write the files, each whole or not at all, and return them."""
    from media.types import DEFAULT_FPS
    from service.cli.destination import Target
    from service.cli.outputs import output_file, writing_pixels
    from service.cli.sample_grid import sample_grid
    from service.formats.codes import write_codes

    frames = samples.meta.size.frames
    suffix = suffix or (".png" if frames == 1 else ".mp4")
    written = []
    for index, sample in enumerate(samples.samples if out is not None else ()):
        assert out is not None
        path = out / f"{index:02d}{suffix}" if out != STANDARD and _is_folder(out) else out
        if suffix in RESULT_SUFFIXES:
            assert sample.codes is not None
            with output_file(path) as file:
                file.write(write_codes(sample.codes, RESULT_SUFFIXES[suffix]))
        else:
            assert sample.pixels is not None
            target = Target(path, PIXEL_SUFFIXES[suffix])
            with writing_pixels(target, frames, samples.meta.fps or DEFAULT_FPS, options.quality) as write:
                write(sample.pixels)
        written.append(path)
    if grid is not None:
        pixels = [sample.pixels for sample in samples.samples if sample.pixels is not None]
        with writing_pixels(Target(grid, PICTURE_SUFFIXES[grid.suffix.lower()]), 1, DEFAULT_FPS) as write:
            write(sample_grid(pixels))
        written.append(grid)
    return written
