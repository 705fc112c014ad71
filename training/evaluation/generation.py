"""Evaluation of generators: distances of samples from real items, by class too, and their nearest training items."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from media.kinds import Kind
from model.atomic_write import replace_file
from model.bundle import Bundle, GeneratorBundle, load_bundle, load_generator
from model.tokenizer.patches import to_float
from training.card import code_version, machine_name
from training.devices import resolve_device
from training.errors import TrainingError
from training.evaluation.distances import (
    RADIUS_NEIGHBOURS,
    Indices,
    count_copies,
    kernel_distance,
    kernel_floor,
    nearest,
    precision_recall,
)
from training.evaluation.features import SEED, Features, frame_features
from training.evaluation.labelled import LabelledItems, find_labelled
from training.evaluation.pair import check_pair
from training.evaluation.preprocessing import INCEPTION, LITE
from training.evaluation.recognition import Recognition, recognise
from training.evaluation.report import number
from training.evaluation.set_metrics import MetricValue, PairedMetric
from training.evaluation.suite import MetricSuite, NetworkPaths
from training.generator.code_set import ExtractionOptions
from training.generator.sampling import Sampler
from training.pictures import contact_sheet, write_image

SHOWN_NEIGHBOURS = 5  # of each sample
MAX_ROWS = 16  # of the sheet of neighbours
MAX_SEARCHED = 4096  # training items among which neighbours are looked for
MIN_CLASS_ITEMS = 8  # a distance between fewer says nothing
MIN_RECOGNISED = 0.75  # a class is listed where fewer of its samples are recognised
TINY_SIDE = 16  # pixels of the pictures that are compared where no network is there


@dataclass(frozen=True)
class KindScores:
    """Scores of the images or of the clips of a generator.

    Args:
        kind: images or clips.
        items: real items that could be read, and as many samples of the same classes.
        metrics: distances of all samples from all real items.
        precision, recall: shares of samples near real items, and of real items near samples; None for too few items.
        classes: distance of each class from its real items, where there are enough.
        recognised_by_real, recognised_by_both: what a classifier of real items alone recognises, and one of real items
            and of their reconstructions.
        copies: samples that are nearer to a searched training item than any real item is; None where real items are
            those of training.
        searched: training items among which neighbours were looked for.
        features: names what precision, recall, classes and neighbours are compared by.
        broken: real and training items that could not be read, a sentence each.
    """

    kind: Kind
    items: int
    metrics: tuple[MetricValue, ...]
    precision: float | None
    recall: float | None
    classes: dict[str, MetricValue]
    recognised_by_real: Recognition
    recognised_by_both: Recognition
    copies: int | None
    searched: int
    features: str
    broken: tuple[str, ...]


@dataclass(frozen=True)
class GeneratorEvaluation:
    """The result of an evaluation.

    Args:
        kinds: scores of each kind.
        missing: metrics that were left out, with the file that they need.
    """

    kinds: tuple[KindScores, ...]
    missing: dict[str, Path]


def evaluate_generator(
    bundle: Path,
    tokenizer: Path | None,
    data: Path,
    out: Path,
    device: str | None,
    networks: NetworkPaths,
    held_out: Path | None = None,
    items: int | None = None,
) -> GeneratorEvaluation:
    """Compare samples with real items; write `generation.json`, `metrics.md`, and samples with their neighbours.

    Args:
        bundle: folder of the generator's bundle.
        tokenizer: folder of the tokenizer's bundle.
        data: labelled folder that the generator was trained on, as for `find_items`.
        out: folder of the results.
        device: by name.
        networks: files of the metric networks.
        held_out: labelled folder of other items to measure distances from; those of `data` by default.
        items: at most so many real items of a kind, evenly spread, and as many samples.

    Raises:
        BundleError: a bundle cannot be loaded, or the generator does not fit its tokenizer.
        TrainingError: no or another tokenizer, no items of the generator's classes, none that can be read, or a
            network's file is wrong.
    """
    chosen = resolve_device(device)
    generator, decoder, options = load_pair(bundle, tokenizer, chosen)
    suite = MetricSuite(networks, chosen)
    length, classes = options.frames, generator.classes
    trained = find_labelled(data, classes, options)
    real = trained if held_out is None else find_labelled(held_out, classes, options)
    kinds = [kind for kind in trained if kind in real and (kind == "images" or length > 1)]
    if not kinds:
        raise TrainingError(f"{held_out or data} holds no items of the classes {', '.join(classes)}.")
    scores = tuple(
        _score(
            kind, generator, decoder, real[kind].spread(items), trained[kind].spread(MAX_SEARCHED), suite, out,
            others=held_out is not None,
        )
        for kind in kinds
    )  # fmt: skip
    # samples have no originals to be paired with
    found = GeneratorEvaluation(scores, {name: path for name, path in suite.missing.items() if "VGG" not in name})
    record = {
        "bundle": generator.hash,
        "tokenizer": decoder.hash,
        "data": str(data),
        "held out": None if held_out is None else str(held_out),
        "sampling": asdict(generator.config.sampling),
        "protocols": suite.protocols(),
        "left out": {metrics: str(path) for metrics, path in found.missing.items()},
        "code": code_version(),
        "machine": machine_name(chosen),
        "results": [asdict(one) for one in found.kinds],
    }
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "generation.json", json.dumps(record, indent=2).encode() + b"\n")
    replace_file(out / "metrics.md", markdown(found).encode() + b"\n")
    return found


def load_pair(
    bundle: Path, tokenizer: Path | None, device: torch.device
) -> tuple[GeneratorBundle, Bundle, ExtractionOptions]:
    """Load a generator and its tokenizer; return both, and what the pixels are that they make.

    Raises:
        BundleError: a bundle cannot be loaded, or the generator does not fit its tokenizer.
        TrainingError: no or another tokenizer.
    """
    decoder = load_bundle(check_pair(bundle, tokenizer), device)
    generator = load_generator(bundle, device)
    length, side, _ = decoder.config.geometry.size(generator.config.grid)
    return generator, decoder, ExtractionOptions(side, length)


@torch.inference_mode()
def _score(
    kind: Kind,
    generator: GeneratorBundle,
    tokenizer: Bundle,
    real: LabelledItems,
    trained: LabelledItems,
    suite: MetricSuite,
    out: Path,
    others: bool,
) -> KindScores:
    """Return the scores of one kind, and write its sheet; `others` are real items that are not those of training."""
    frames = generator.config.grid[0] if kind == "clips" else 1
    metrics = [
        one for one in suite.metrics(real.options.frames if frames > 1 else 1) if not isinstance(one, PairedMetric)
    ]
    by, extract = extractor(suite)
    originals, reconstructed, samples = list[Features](), list[Features](), list[Features]()
    sampler = Sampler(generator.generator)
    wanted = real.labels
    rows = set(sorted(set(wanted))[:MAX_ROWS])  # a row for each class, up to the height of a sheet
    shown: dict[int, NDArray[np.uint8]] = {}
    start, kept = 0, list[int]()
    for made in sampler.pixels(tokenizer.tokenizer, wanted, frames, SEED):
        found = real.read(start, start + len(made))
        same = [made[place - start] for place in found]  # samples for broken items are left out with them
        start += len(made)
        if not found:
            continue
        pair = [torch.from_numpy(np.stack(pixels)).to(suite.device) for pixels in (list(found.values()), same)]
        for metric in metrics:
            metric.update(pair[0], pair[1])
        originals.append(extract(pair[0]))
        reconstructed.append(extract(tokenizer.tokenizer.reconstruct(pair[0])))
        samples.append(extract(pair[1]))
        kept += found
        for place, sample in zip(found, same, strict=True):
            if wanted[place] in rows:
                shown.setdefault(wanted[place], sample)
    real = real.readable(kept)
    labels, count, names = np.array(real.labels), len(real), generator.classes
    first, rebuilt, second = (np.concatenate(parts) for parts in (originals, reconstructed, samples))
    views = (first, rebuilt)
    training, trained = features_of(trained, extract, suite.device)
    ordered = sorted(shown)
    close = nearest(second[[int(np.argmax(labels == label)) for label in ordered]], training, SHOWN_NEIGHBOURS)
    _write_sheet(out / f"{kind}-neighbours.png", [shown[label] for label in ordered], trained, close)
    precision, recall = precision_recall(first, second) if count > RADIUS_NEIGHBOURS else (None, None)
    return KindScores(
        kind=kind,
        items=count,
        metrics=tuple(
            replace(value, name=value.name.removeprefix("r")) for metric in metrics for value in metric.compute()
        ),
        precision=precision,
        recall=recall,
        classes=_by_class(names, labels, first, second),
        recognised_by_real=recognise(views[:1], views, second, labels, names, SEED),
        recognised_by_both=recognise(views, views, second, labels, names, SEED),
        copies=count_copies(second, first, training) if others else None,
        searched=len(trained),
        features=by,
        broken=tuple(dict.fromkeys(real.broken + trained.broken)),  # without --held-out both may be the same files
    )


def extractor(suite: MetricSuite) -> tuple[str, Callable[[Tensor], Features]]:
    """Return the name of the features of single items, and what takes them of the middle frame: (N, d)."""
    network = suite.lite or suite.inception
    if network is None:
        return f"pixels at {TINY_SIDE}x{TINY_SIDE}", _tiny_pixels
    name, prepare = ("EfficientNet-Lite0", LITE) if suite.lite is not None else ("Inception-v3", INCEPTION)
    return name, lambda clips: frame_features(network, prepare, _middle(clips))[:, 0].float().cpu().numpy()


def features_of(
    items: LabelledItems, extract: Callable[[Tensor], Features], device: torch.device
) -> tuple[Features, LabelledItems]:
    """Return the features (N, d) of the items that can be read, and these items.

    Raises:
        TrainingError: none can be read.
    """
    parts, kept = list[Features](), list[int]()
    for found in items.batches():
        parts.append(extract(torch.from_numpy(np.stack(list(found.values()))).to(device)))
        kept += found
    readable = items.readable(kept)
    return np.concatenate(parts), readable


def _tiny_pixels(clips: Tensor) -> Features:
    frames = to_float(_middle(clips)[:, 0], torch.float32).permute(0, 3, 1, 2)
    return F.interpolate(frames, (TINY_SIDE, TINY_SIDE), mode="area").flatten(1).cpu().numpy()


def _middle(clips: Tensor) -> Tensor:
    at = clips.shape[1] // 2
    return clips[:, at : at + 1]


def _by_class(names: Sequence[str], labels: Indices, real: Features, made: Features) -> dict[str, MetricValue]:
    """Return the kernel distance of each class with its floor; it is unbiased for few items too."""
    found = {}
    for label, name in enumerate(names):
        own, drawn = real[labels == label], made[labels == label]
        if len(own) >= MIN_CLASS_ITEMS:
            found[name] = MetricValue("kernel distance", kernel_distance(own, drawn, SEED), kernel_floor(own, SEED))
    return found


def _write_sheet(path: Path, shown: Sequence[NDArray[np.uint8]], trained: LabelledItems, close: Indices) -> None:
    """Write a row for each sample: the sample, then its nearest training items."""
    pictures = []
    for sample, members in zip(shown, close, strict=True):
        near = [trained.read(place, place + 1)[place] for place in members.tolist()]
        pictures.append(np.stack([clip[len(clip) // 2] for clip in (sample, *near)]))
    write_image(contact_sheet(*pictures), path)


def markdown(found: GeneratorEvaluation) -> str:
    """Return all scores as Markdown."""
    parts = []
    for scores in found.kinds:
        rows = [(value.name, value) for value in scores.metrics]
        rows += [(f"class {name}", value) for name, value in scores.classes.items()]
        lines = [f"| {scores.kind} | value | half-split |", "| --- | --- | --- |"]
        lines += [f"| {name} | {number(value.value)} | {number(value.half_split)} |" for name, value in rows]
        if scores.precision is not None and scores.recall is not None:
            lines += [f"| precision | {scores.precision:.1%} | |", f"| recall | {scores.recall:.1%} | |"]
        lines += _recognition_lines("real items alone", scores.recognised_by_real)
        lines += _recognition_lines("real items and reconstructions", scores.recognised_by_both)
        if scores.copies is not None:
            lines.append(f"| nearer to training than any real item | {scores.copies} | |")
        parts.append("\n".join(lines))
        parts.append(
            f"{scores.items:,} samples against as many real {scores.kind} of the same classes. Precision, recall, the "
            f"kernel distance of each class, and neighbours among {scores.searched:,} training items are by "
            f"{scores.features} of the middle frame, and so are both classifiers of classes: "
            "one knows real items alone, the other their reconstructions by the tokenizer too. The half-split is the "
            "metric of two random halves of the real items."
        )
    return "\n\n".join(parts)


def _recognition_lines(known: str, found: Recognition) -> list[str]:
    share = sum(found.samples.values()) / len(found.samples)
    in_folds = zip(("real items", "their reconstructions"), (found.real, found.reconstructions), strict=True)
    bounds = [f"of {items} {value:.1%}" for items, value in in_folds if value is not None]
    lines = [f"| class recognised, by {known} | {'; '.join([f'{share:.1%}', *bounds])} | |"]
    if weak := [f"{name} {value:.0%}" for name, value in found.samples.items() if value < MIN_RECOGNISED]:
        lines.append(f"| recognised less often | {', '.join(weak)} | |")
    return lines
