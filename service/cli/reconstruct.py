"""`omnitok reconstruct`: what the tokenizer keeps of pictures and clips, in figures and to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import MEDIA_HELP, NAMED_AFTER, PIXEL_SUFFIXES, TokenizerLocation, grouped
from service.operations.options import ReconstructOptions

if TYPE_CHECKING:
    from media.frame_reader import FrameReader
    from service.cli.batch import InputFile
    from service.cli.destination import Destination
    from service.cli.outputs import Part
    from service.cli.tokenizers import CommandTokenizer

SUFFIXES = ", ".join(PIXEL_SUFFIXES)


@grouped(without=["side_by_side"])  # which the command has in a form of its own
def reconstruct(
    media: Annotated[list[Path], typer.Argument(help=MEDIA_HELP)],
    location: TokenizerLocation,
    options: ReconstructOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help=f"Write the reconstruction: file ({SUFFIXES}), {NAMED_AFTER} (b.jpg: b.jpg.png), or -."
        ),
    ] = None,
    side_by_side: Annotated[
        Path | None,
        typer.Option(help="Write the original next to the reconstruction, as one picture or clip; named as by --out."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="png, webp, mp4, npy ...", show_default="by the file, or png of pictures, mp4 of clips"),
    ] = None,
) -> None:
    """Encode and decode images or videos, and print PSNR and SSIM, both averaged over frames."""
    location.check(options.model)

    from service.cli.batch import STANDARD, gather
    from service.cli.destination import Destination
    from service.cli.inputs import is_media
    from service.cli.tokenizers import opened

    scores: list[Score] = []
    with gather(media, is_media, "a picture or a clip") as batch:
        copies, pairs = (
            None if path is None else Destination(path, PIXEL_SUFFIXES, format, batch, option=option)
            for path, option in ((out, "--out"), (side_by_side, "--side-by-side"))
        )
        with opened(location) as tokenizer:
            try:
                batch.run(lambda source: scores.append(_score(source, options, tokenizer, copies, pairs)))
            finally:
                if scores:
                    _print(scores, to_stderr=STANDARD in (out, side_by_side))


@dataclass
class Score:
    """PSNR and SSIM of a reconstruction.

    Args:
        name: of the file.
        psnr: dB of each frame.
        ssim: of each frame; empty where frames are too small for it.
        height, width: of the frames, pixels.
    """

    name: str
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    height: int = 0
    width: int = 0

    def add(self, original: Part, copy: Part) -> None:
        """Measure a part of the clip."""
        from model.metrics.psnr import psnr
        from model.metrics.ssim import SSIM_WINDOW, ssim

        self.height, self.width = original.shape[1:3]
        self.psnr += psnr(original, copy).tolist()
        if min(self.height, self.width) >= SSIM_WINDOW:
            self.ssim += ssim(original, copy).tolist()


def _score(
    source: InputFile,
    options: ReconstructOptions,
    tokenizer: CommandTokenizer,
    copies: Destination | None,
    pairs: Destination | None,
) -> Score:
    import numpy as np

    from service.cli.inputs import open_media
    from service.cli.progress import tracked

    score = Score(source.relative.name)
    with open_media(source.path, options.media(), source.name) as reader, ExitStack() as files:
        write_copy = files.enter_context(_optional(copies, source, reader, options))
        write_pair = files.enter_context(_optional(pairs, source, reader, options))
        parts = tokenizer.reconstruct(reader, options.model)
        for original, copy in tracked(parts, source.name, reader.expected, lambda part: len(part[0])):
            score.add(original, copy)
            write_copy(copy)
            write_pair(np.concatenate([original, copy], axis=2))
    return score


@contextmanager
def _optional(
    destination: Destination | None, source: InputFile, reader: FrameReader, options: ReconstructOptions
) -> Iterator[Callable[[Part], None]]:
    if destination is None:
        yield lambda part: None
        return
    from media.types import DEFAULT_FPS
    from service.cli.outputs import writing_pixels

    target = destination.of_pixels(source, reader.expected)
    fps = options.fps or reader.info().kept_fps or DEFAULT_FPS
    with writing_pixels(target, reader.expected, fps, options.quality) as write:
        yield write


def _print(scores: list[Score], to_stderr: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("media", "frames", "pixels", "PSNR dB", "worst frame", "SSIM", highlight=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for score in scores:
        table.add_row(
            Text(score.name),
            str(len(score.psnr)),
            f"{score.height}x{score.width}",
            f"{_mean(score.psnr):.2f}",
            f"{min(score.psnr):.2f}",
            f"{_mean(score.ssim):.4f}" if score.ssim else "-",
        )
    if len(scores) > 1:
        table.add_section()
        measured = [_mean(score.ssim) for score in scores if score.ssim]
        psnr, ssim = _mean([_mean(score.psnr) for score in scores]), _mean(measured) if measured else None
        table.add_row("mean", "", "", f"{psnr:.2f}", "", "-" if ssim is None else f"{ssim:.4f}")
    Console(stderr=to_stderr).print(table)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
