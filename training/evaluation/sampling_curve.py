"""Scores of a generator's samples by the settings of sampling, from which its defaults are chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.atomic_write import replace_file
from model.config_checks import ConfigError
from model.generator.config import SamplingDefaults
from training.card import code_version, machine_name
from training.devices import resolve_device
from training.errors import TrainingError
from training.evaluation.distances import kernel_distance, kernel_floor, precision_recall
from training.evaluation.features import SEED, Features
from training.evaluation.generation import extractor, features_of, load_pair
from training.evaluation.labelled import find_labelled
from training.evaluation.recognition import classifier_of_views
from training.evaluation.suite import MetricSuite, NetworkPaths
from training.generator.sampling import Sampler
from training.plots import plotting


@dataclass(frozen=True)
class CurvePoint:
    """Scores of the samples of one setting.

    Args:
        guidance, top_k: what was set; None for a top_k of diffusion.
        distance: kernel distance of the samples from the real items.
        precision, recall: shares of samples near real items, and of real items near samples.
        recognised: share of samples whose class a classifier of the real items and of their reconstructions recognises.
    """

    guidance: float
    top_k: int | None
    distance: float
    precision: float
    recall: float
    recognised: float


@torch.inference_mode()
def sampling_curve(
    bundle: Path,
    tokenizer: Path | None,
    data: Path,
    out: Path,
    device: str | None,
    networks: NetworkPaths,
    guidances: Sequence[float],
    top_ks: Sequence[int] = (),
    items: int | None = None,
) -> tuple[list[CurvePoint], list[str]]:
    """Score samples by guidance, and by top-k too where it is given; write `sampling.json` and `sampling.png`.

    Images are sampled where there are real ones, and else clips, of which the middle frame counts.

    Args:
        bundle, tokenizer, device, networks: as for `evaluate_generator`.
        data: labelled folder of the real items, which the generator was best not trained on.
        out: folder of the results.
        guidances, top_ks: every pair is measured; the generator's own value where there is none.
        items: at most so many real items, evenly spread, and as many samples.

    Returns:
        The scores, and the real items that could not be read, a sentence each.

    Raises:
        BundleError: a bundle cannot be loaded, or the generator does not fit its tokenizer.
        TrainingError: a setting is out of its range, no or another tokenizer, a top-k for diffusion, or no items of the
            generator's classes that can be read.
    """
    chosen = resolve_device(device)
    generator, decoder, options = load_pair(bundle, tokenizer, chosen)
    sampler = Sampler(generator.generator)
    settings = list(_settings(sampler.settings, guidances, top_ks))
    found = find_labelled(data, generator.classes, options)
    kind = "images" if "images" in found else "clips"
    if kind not in found:
        raise TrainingError(f"{data} holds no items of the classes {', '.join(generator.classes)}.")
    real = found[kind].spread(items)
    by, extract = extractor(MetricSuite(networks, chosen))

    def both(pixels: Tensor) -> Features:
        return np.hstack([extract(pixels), extract(decoder.tokenizer.reconstruct(pixels))])

    views, real = features_of(real, both, chosen)
    originals, rebuilt = np.split(views, 2, axis=1)
    labels, frames = np.array(real.labels), generator.config.grid[0] if kind == "clips" else 1
    classify, points = classifier_of_views((originals, rebuilt), labels), list[CurvePoint]()
    for one in settings:
        sampler.settings = one
        made = sampler.pixels(decoder.tokenizer, real.labels, frames, SEED)
        samples = np.concatenate([extract(torch.from_numpy(pixels).to(chosen)) for pixels in made])
        precision, recall = precision_recall(originals, samples)
        points.append(
            CurvePoint(
                one.guidance, one.top_k if isinstance(one, SamplingDefaults) else None,
                kernel_distance(originals, samples, SEED), precision, recall,
                float((classify(samples) == labels).mean()),
            )
        )  # fmt: skip
    floor = kernel_floor(originals, SEED)
    record = {
        "bundle": generator.hash,
        "tokenizer": decoder.hash,
        "data": str(data),
        "kind": kind,
        "items": len(real),
        "broken": real.broken,
        "features": by,
        "half-split": floor,
        "code": code_version(),
        "machine": machine_name(chosen),
        "results": [asdict(point) for point in points],
    }
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "sampling.json", json.dumps(record, indent=2).encode() + b"\n")
    _draw(points, floor, out / "sampling.png")
    return points, real.broken


def _settings(own: Any, guidances: Sequence[float], top_ks: Sequence[int]) -> Iterator[Any]:
    """Yield the settings to measure, of the type of the generator's own."""
    if top_ks and not isinstance(own, SamplingDefaults):
        raise TrainingError("Diffusion has no --top-k.")
    for top_k, guidance in product(top_ks or (None,), guidances or (own.guidance,)):
        try:
            yield replace(own, guidance=guidance, **({} if top_k is None else {"top_k": top_k}))
        except ConfigError as error:
            raise TrainingError(str(error)) from error


def _draw(points: Sequence[CurvePoint], floor: float | None, path: Path) -> None:
    """Draw distance and recognised classes by guidance, a line for each top-k."""
    with plotting(path, (9.0, 3.6)) as figure:
        left, right = figure.subplots(1, 2)
        for top_k in dict.fromkeys(point.top_k for point in points):
            own = sorted((point for point in points if point.top_k == top_k), key=lambda point: point.guidance)
            guidances, label = [point.guidance for point in own], None if top_k is None else f"top-k {top_k or 'all'}"
            left.plot(guidances, [point.distance for point in own], marker="o", label=label)
            right.plot(guidances, [point.recognised for point in own], marker="o", label=label)
        if floor is not None:
            left.axhline(floor, color="grey", linestyle=":", label="halves of the real items")
        left.set(xlabel="guidance", ylabel="kernel distance", ylim=(0, None))
        right.set(xlabel="guidance", ylabel="class recognised", ylim=(0, 1))
        for axes in (left, right):
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
