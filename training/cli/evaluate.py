"""`omnitok evaluate`: measure a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from model.bundle_files import read_config
from model.bundle_header import read_tokenizer
from training.cli.errors import exit_on_error, refuse_others
from training.cli.options import DeviceOption

if TYPE_CHECKING:
    from training.evaluation.evaluate import Evaluation
    from training.evaluation.sampling_curve import CurvePoint


COMMON = frozenset({"bundle", "data", "out", "device"})
SCORES = frozenset({"items", "networks", "inception", "i3d", "lpips"})
OF_TOKENIZERS = COMMON | SCORES | {"side", "frames"}
OF_GENERATORS = COMMON | SCORES | {"tokenizer", "held_out", "guidance", "top_k"}
OF_SWEEPS = COMMON | {"sweep"}


def evaluate(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Bundle of a tokenizer or of a generator.")],
    data: Annotated[
        Path, typer.Argument(help="Data folder with held-out sets, or any folder of images and videos.")
    ] = Path("data/demo"),
    out: Annotated[Path, typer.Option(help="Folder for results and pictures.")] = Path("runs/evaluation"),
    device: DeviceOption = None,
    side: Annotated[int, typer.Option(min=16, help="Cut files to squares of this many pixels a side.")] = 256,
    frames: Annotated[int, typer.Option(min=1, help="Cut videos to clips of this many frames.")] = 17,
    items: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many items of each set, evenly spread.", show_default="all"),
    ] = None,
    networks: Annotated[Path, typer.Option(help="Folder of `omnitok data networks`.")] = Path("data/networks"),
    inception: Annotated[Path | None, typer.Option(help="Weights of the FID Inception-v3, for rFID.")] = None,
    i3d: Annotated[Path | None, typer.Option(help="Weights of Inception-I3D (Kinetics-400), for rFVD.")] = None,
    lpips: Annotated[Path | None, typer.Option(help="Weights of LPIPS on VGG16: a file or a folder.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Generators: bundle of the tokenizer; required.")] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Generators: labelled items to compare samples with, where DATA was trained on."),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Tokenizers: measure PSNR by resolution and by frame instead, with plots.")
    ] = False,
    guidance: Annotated[
        list[float] | None,
        typer.Option(help="Generators: score samples at this guidance instead, with a plot; repeat for more."),
    ] = None,
    top_k: Annotated[
        list[int] | None, typer.Option(help="Language models: the same at this top-k; repeat for more.")
    ] = None,
) -> None:
    """Measure a tokenizer's reconstructions, or a generator's samples.

    Of a tokenizer: PSNR, SSIM, the use of its codes or latents, and distances of networks' features. Without weights
    of the standard networks the packaged ones give metrics of their own: FID-lite, KID-lite, FVD-lite and the VGG
    distance.

    Of a generator: the same distances between its samples and labelled items, and samples beside their nearest training
    items.

    `omnitok evaluate bundles/demo-vq FOLDER` measures files of your own.
    """
    from training.data.files import check_exists
    from training.evaluation.pair import check_pair

    with exit_on_error():
        if generates := read_config(bundle).kind == "generator":
            refuse_others(context, "A generator", OF_GENERATORS)
            check_pair(bundle, tokenizer)
        else:
            read_tokenizer(bundle)
            measured, options = ("--sweep", OF_SWEEPS) if sweep else ("A tokenizer", OF_TOKENIZERS)
            refuse_others(context, measured, options)
        for path in filter(None, (data, held_out, inception, i3d, lpips)):
            check_exists(path)

        from training.evaluation.suite import NetworkPaths

        paths = NetworkPaths(networks, inception, i3d, lpips)
        if guidance or top_k:
            from training.evaluation.sampling_curve import sampling_curve

            real = held_out or data
            points, broken = sampling_curve(
                bundle, tokenizer, real, out, device, paths, guidance or [], top_k or [], items
            )
            _print_curve(points)
            _print_broken(broken)
        elif generates:
            from training.evaluation.generation import evaluate_generator, markdown

            scores = evaluate_generator(bundle, tokenizer, data, out, device, paths, held_out, items)
            Console().print(Markdown(markdown(scores)))
            _print_broken([sentence for kind in scores.kinds for sentence in kind.broken])
            _print_missing(scores.missing)
        elif sweep:
            from training.evaluation.sweep import sweep_bundle

            _print_sweep(sweep_bundle(bundle, data, out, device))
        else:
            from training.evaluation.evaluate import evaluate_bundle

            _print_evaluation(evaluate_bundle(bundle, data, out, device, paths, side, frames, items))
    typer.echo(f"wrote {out}")


def _print_evaluation(found: Evaluation) -> None:
    from training.evaluation.report import notes, terminal_tables

    console = Console()
    for part in (*terminal_tables(found), *notes(found)):
        console.print(part, highlight=False)
    _print_broken([sentence for scores in found.sets for sentence in scores.broken])
    _print_missing(found.missing)


def _print_broken(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        Console().print(f"left out: {sentence}", highlight=False, markup=False)


def _print_missing(missing: dict[str, Path]) -> None:
    for metrics, path in missing.items():
        Console().print(f"without {metrics}: {path} is missing, `omnitok data networks` brings it", highlight=False)


def _print_curve(points: Sequence[CurvePoint]) -> None:
    table = Table("guidance", "top-k", "kernel distance", "precision", "recall", "class recognised")
    for point in points:
        shares = (f"{share:.1%}" for share in (point.precision, point.recall, point.recognised))
        table.add_row(
            f"{point.guidance:g}",
            "" if point.top_k is None else str(point.top_k or "all"),
            f"{point.distance:.4f}",
            *shares,
        )
    Console().print(table)


def _print_sweep(records: dict[str, dict[str, Any]]) -> None:
    console = Console()
    resolution, frames = records["psnr-by-resolution"], records["psnr-by-frame"]
    table = Table("side, pixels", "PSNR, dB", "middle half")
    for side, row in resolution["psnr"].items():
        table.add_row(side, f"{row['mean']:.2f}", f"{row['lower quartile']:.2f} to {row['upper quartile']:.2f}")
    console.print(table)
    curve = frames["psnr"]["whole"]
    codes = "the same codes" if frames["equal codes"] else "OTHER codes"
    console.print(
        f"{frames['items']} clips of {len(curve)} frames: first frame {curve[0]:.2f} dB, last {curve[-1]:.2f} dB; "
        f"in chunks of {frames['chunk']} frames {codes}, pixels at most {frames['largest pixel difference']} of 255 "
        f"levels apart ({frames['share of pixels that differ']:.1e} of them)",
        highlight=False,
    )
    steps = frames["mean absolute PSNR step, dB"]
    listed = ", ".join(f"{value:.3f} {place}" for place, value in steps.items() if value is not None)
    console.print(f"mean absolute PSNR step from frame to frame, dB: {listed}", highlight=False)
