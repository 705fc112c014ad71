"""PSNR of one bundle by resolution, and by frame of long clips, whole and streamed in chunks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.atomic_write import replace_file
from model.bundle import load_bundle
from model.metrics.psnr import psnr
from model.tokenizer.streaming import stream_decode, stream_encode
from model.tokenizer.tokenizer import OmniTokenizer
from training.data.shards import open_set
from training.devices import resolve_device
from training.errors import TrainingError
from training.evaluation.datasets import PIXELS_AT_ONCE
from training.pictures import centre_square
from training.plots import plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHOTOGRAPHS, CLIPS = "held-out/photographs-512", "held-out/camera-65"
SIDES = (64, 96, 128, 192, 256, 320, 384, 512)
CHUNK_FRAMES = 9  # not a multiple of the temporal patch, so that some frames wait for the next chunk
Values = NDArray[np.float64]


@dataclass(frozen=True)
class StreamComparison:
    """Clips that went through the model whole and in chunks.

    Args:
        whole, chunked: PSNR of every frame, float64 (N, T).
        borders: numbers of the frames that begin a decoded chunk, the first left out.
        equal_codes: whether both ways gave the same codes, bit for bit.
        largest_difference: between the pixels of both ways, in levels of 0 to 255; 1 is rounding, for the same sums are
            taken in another order.
        differing: share of the pixels' values that differ.
    """

    whole: Values
    chunked: Values
    borders: tuple[int, ...]
    equal_codes: bool
    largest_difference: int
    differing: float


@torch.inference_mode()
def psnr_by_resolution(tokenizer: OmniTokenizer, photographs: Tensor, sides: tuple[int, ...]) -> dict[int, Values]:
    """Return the PSNR of photographs that are reduced to each side.

    Args:
        tokenizer: in evaluation mode.
        photographs: uint8 (N, 1, S, S, 3) with S at least the largest side; may be mapped from disk.
        sides: pixels.

    Returns:
        For each side float64 (N), decibels.
    """
    device = next(tokenizer.parameters()).device
    found: dict[int, Values] = {}
    for side in sides:
        parts = []
        for batch in photographs.split(max(1, PIXELS_AT_ONCE // side**2)):
            small = np.stack([centre_square(Image.fromarray(picture), side) for picture in batch[:, 0].numpy()])
            pixels = torch.from_numpy(small)[:, None].to(device)
            parts.append(psnr(small[:, None], tokenizer.reconstruct(pixels).cpu())[:, 0])
        found[side] = np.concatenate(parts)
    return found


@torch.inference_mode()
def psnr_by_frame(tokenizer: OmniTokenizer, clips: Tensor) -> StreamComparison:
    """Return the PSNR of every frame of clips, encoded and decoded whole, and in chunks.

    Args:
        tokenizer: in evaluation mode; causal, for it streams.
        clips: uint8 (N, T, H, W, 3); may be mapped from disk.

    Raises:
        TrainingError: the model sees later frames, so it takes whole clips only.
    """
    if not tokenizer.config.streams:
        raise TrainingError("This model sees later frames: it takes whole clips only, and its sweep has no frames.")
    device = next(tokenizer.parameters()).device
    whole: list[Values] = []
    chunked: list[Values] = []
    borders: tuple[int, ...] = ()
    equal, largest, differing = True, 0, 0
    for batch in clips.split(max(1, PIXELS_AT_ONCE // clips[0, ..., 0].numel())):
        pixels = batch.to(device)
        codes = tokenizer.encode(pixels)
        restored = tokenizer.decode(codes, tuple(pixels.shape[1:4]))
        parts = list(stream_encode(tokenizer, pixels.split(CHUNK_FRAMES, dim=1)))
        restored_parts = list(stream_decode(tokenizer, parts))
        frames, height, width = pixels.shape[1:4]
        streamed = torch.cat(restored_parts, dim=1)[:, :frames, :height, :width]
        borders = tuple(int(n) for n in np.cumsum([part.shape[1] for part in restored_parts])[:-1])
        equal = equal and torch.equal(codes, torch.cat(parts, dim=1))
        difference = (streamed.int() - restored.int()).abs()
        largest, differing = max(largest, int(difference.max())), differing + int((difference > 0).sum())
        for values, out in ((whole, restored), (chunked, streamed)):
            values.append(psnr(batch, out.cpu()))
    share = differing / clips.numel()
    return StreamComparison(np.concatenate(whole), np.concatenate(chunked), borders, equal, largest, share)


def psnr_steps(streamed: StreamComparison, temporal_patch: int) -> dict[str, float | None]:
    """Return mean absolute steps of PSNR from frame to frame of the streamed clips, by where they are.

    A chunk begins where a temporal patch begins, so a seam of the stream would show against the other patches' borders.

    Args:
        streamed: the measured clips.
        temporal_patch: frames of a patch after the first frame.

    Returns:
        Decibels at borders of chunks, at other borders of patches, and within patches; None where there are none.
    """
    steps = np.abs(np.diff(streamed.chunked, axis=1)).mean(axis=0)  # steps[i] leads to frame i + 1
    places = np.arange(1, len(steps) + 1)
    chunk_border = np.isin(places, streamed.borders)
    patch_border = (places - 1) % temporal_patch == 0
    kinds = {
        "at chunk borders": chunk_border,
        "at other patch borders": patch_border & ~chunk_border,
        "within patches": ~patch_border & ~chunk_border,
    }
    return {name: float(steps[chosen].mean()) if chosen.any() else None for name, chosen in kinds.items()}


def sweep_bundle(bundle: Path, data: Path, out: Path, device: str | None) -> dict[str, dict[str, Any]]:
    """Sweep a bundle over sizes; write `psnr-by-resolution` and `psnr-by-frame`, each as .json and .png.

    Args:
        bundle: folder of the bundle.
        data: data folder with the sets `held-out/photographs-512` and `held-out/camera-65`.
        out: folder of the results.
        device: by name.

    Returns:
        The records of the two files, by their names.

    Raises:
        BundleError: the bundle cannot be loaded.
        TrainingError: there is no such device, a set is missing or damaged, or the model takes whole clips only.
    """
    loaded = load_bundle(bundle, resolve_device(device))
    photographs, clips = (open_set(data / name) for name in (PHOTOGRAPHS, CLIPS))
    sides = tuple(side for side in SIDES if side <= photographs.info.height)
    resolution = psnr_by_resolution(loaded.tokenizer, photographs.pixels(), sides)
    streamed = psnr_by_frame(loaded.tokenizer, clips.pixels())
    records: dict[str, dict[str, Any]] = {
        "psnr-by-resolution": {
            "bundle": loaded.hash,
            "set": PHOTOGRAPHS,
            "items": len(photographs),
            "preprocessing": "centre squares, reduced with a Lanczos filter",
            "psnr": {str(side): _summary(values) for side, values in resolution.items()},
        },
        "psnr-by-frame": {
            "bundle": loaded.hash,
            "set": CLIPS,
            "items": len(clips),
            "side": clips.info.height,
            "chunk": CHUNK_FRAMES,
            "chunks begin at": streamed.borders,
            "equal codes": streamed.equal_codes,
            "largest pixel difference": streamed.largest_difference,
            "share of pixels that differ": streamed.differing,
            "mean absolute PSNR step, dB": psnr_steps(streamed, loaded.tokenizer.config.temporal_patch),
            "psnr": {
                "whole": streamed.whole.mean(axis=0).tolist(),
                "chunked": streamed.chunked.mean(axis=0).tolist(),
            },
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        replace_file(out / f"{name}.json", json.dumps(record, indent=2).encode() + b"\n")
    _draw(resolution, streamed, out)
    return records


def _summary(values: Values) -> dict[str, float]:
    lower, upper = np.quantile(values, (0.25, 0.75))
    return {"mean": float(values.mean()), "lower quartile": float(lower), "upper quartile": float(upper)}


def _draw(resolution: dict[int, Values], streamed: StreamComparison, out: Path) -> None:
    sides, means = list(resolution), [values.mean() for values in resolution.values()]
    lower, upper = np.transpose([np.quantile(values, (0.25, 0.75)) for values in resolution.values()])
    with plotting(out / "psnr-by-resolution.png") as figure:
        axes = figure.add_subplot(xlabel="side, pixels", ylabel="PSNR, dB")
        axes.fill_between(sides, lower, upper, alpha=0.15, label="middle half")
        axes.plot(sides, means, "o-", label="mean of the photographs")
        _finish(axes)
    with plotting(out / "psnr-by-frame.png") as figure:
        axes = figure.add_subplot(xlabel="frame", ylabel="PSNR, dB")
        for number, border in enumerate(streamed.borders):
            axes.axvline(border, color="0.85", zorder=0, label="_" if number else "a decoded chunk begins")
        axes.plot(streamed.whole.mean(axis=0), "-", label="whole clip")
        axes.plot(streamed.chunked.mean(axis=0), ".", label=f"in chunks of {CHUNK_FRAMES} frames")
        _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
