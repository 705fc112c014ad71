"""`omnitok reconstruct`: what the tokenizer keeps of pictures and clips, in figures and to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import (
    MEDIA_HELP,
    PIXEL_SUFFIXES,
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

if TYPE_CHECKING:
    from media.frame_reader import FrameReader
    from media.types import MediaOptions
    from service.cli.outputs import Part

    Reconstruct = Callable[[FrameReader], Iterator[tuple[Part, Part]]]


def reconstruct(
    media: Annotated[list[Path], typer.Argument(help=f"{MEDIA_HELP} One or more.")],
    bundle: BundleOption = None,
    server: ServerOption = None,
    model: ModelOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=f"Write the reconstruction: {', '.join(PIXEL_SUFFIXES)}.")
    ] = None,
    side_by_side: Annotated[
        Path | None, typer.Option(help="Write the original beside the reconstruction, as one picture or clip.")
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
    """Encode and decode images or videos, and print PSNR and SSIM, both averaged over frames."""
    refuse_both(server, bundle, model)
    for path, option in ((out, "--out"), (side_by_side, "--side-by-side")):
        if path is not None:
            type_of(path, PIXEL_SUFFIXES, option)
            if len(media) > 1:
                raise typer.BadParameter("it takes a single MEDIA", param_hint=option)
    options = media_options(size, fit, frames, sampling, stride, start, end, animated)

    from service.cli.remote import reconstructing

    with ExitStack() as stack:
        if server is not None:
            work = stack.enter_context(reconstructing(server, model))
        else:
            from service.cli.offline import LocalTokenizer

            work = LocalTokenizer(choose_bundle(bundle), device).reconstruct
        scores = [_score(path, options, work, out, side_by_side) for path in media]
    _print(scores)


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


def _score(path: Path, options: MediaOptions, work: Reconstruct, out: Path | None, side_by_side: Path | None) -> Score:
    import numpy as np

    from service.cli.inputs import open_media
    from service.cli.progress import tracked

    score = Score(path.name)
    with open_media(path, options) as reader, ExitStack() as files:
        write_copy = files.enter_context(_optional(out, reader, options))
        write_both = files.enter_context(_optional(side_by_side, reader, options))
        parts = work(reader)
        for original, copy in tracked(parts, path.name, reader.expected, lambda part: len(part[0])):
            score.add(original, copy)
            write_copy(copy)
            write_both(np.concatenate([original, copy], axis=2))
    return score


@contextmanager
def _optional(path: Path | None, reader: FrameReader, options: MediaOptions) -> Iterator[Callable[[Part], None]]:
    if path is None:
        yield lambda part: None
        return
    from service.cli.inputs import planned_rate
    from service.cli.outputs import writing_pixels
    from service.formats.pixels import DEFAULT_FPS

    with writing_pixels(path, reader.expected, planned_rate(reader, options) or DEFAULT_FPS) as write:
        yield write


def _print(scores: list[Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("media", "frames", "pixels", "PSNR dB", "worst frame", "SSIM", highlight=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for score in scores:
        table.add_row(
            score.name,
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
    Console().print(table)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
