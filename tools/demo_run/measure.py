"""`python -m tools.demo_run.measure RECIPE TOKENIZER ITEMS`: choose a generator's sampling by curves; measure it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from model.bundle import load_generator, save_generator
from training.errors import TrainingError
from training.evaluation.generation import evaluate_generator
from training.evaluation.sampling_curve import CurvePoint, sampling_curve
from training.evaluation.suite import NetworkPaths

GUIDANCES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
TOP_KS = (0, 256, 1024)
RECOGNISED = 0.9


def best(points: list[CurvePoint]) -> CurvePoint:
    """Return the nearest point whose classes are recognised, or the one whose classes are recognised most."""
    enough = [point for point in points if point.recognised >= RECOGNISED]
    return min(enough, key=lambda point: point.distance) if enough else max(points, key=lambda point: point.recognised)


def main() -> None:
    """Write curves, put the best settings into the bundle, and measure it."""
    recipe, tokenizer = sys.argv[1], Path(sys.argv[2])
    items = int(sys.argv[3])
    bundle, out = Path(f"runs/{recipe}/{recipe}"), Path(f"runs/{recipe}/evaluation")
    networks, held_out = NetworkPaths(Path("networks"), None, None, None), Path("data/play/held-out")
    loaded = load_generator(bundle)
    language = loaded.generator.config.to_dict()["kind"] == "lm"
    try:
        sampling_curve(bundle, tokenizer, held_out, out, None, networks, GUIDANCES, TOP_KS if language else (), items)
    except TrainingError as error:  # a host without matplotlib draws no plot
        print(error, flush=True)
    points = [CurvePoint(**point) for point in json.loads((out / "sampling.json").read_text())["results"]]
    for point in points:
        print(point, flush=True)
    chosen = best(points)
    print("chosen", chosen, flush=True)
    own: Any = loaded.generator.config.sampling
    sampling = replace(own, guidance=chosen.guidance, **({"top_k": chosen.top_k} if language else {}))
    config: Any = loaded.generator.config
    loaded.generator.config = replace(config, sampling=sampling)
    listed = [", ".join(f"{key} {value}" for key, value in asdict(one).items()) for one in (own, sampling)]
    card = (
        (bundle / "README.md").read_text(encoding="utf-8").replace(f"Defaults: {listed[0]}.", f"Defaults: {listed[1]}.")
    )
    save_generator(
        bundle, loaded.generator, card, loaded.tokenizer_hash, loaded.classes, loaded.licence, dtype=torch.float16
    )
    evaluate_generator(bundle, tokenizer, Path("data/play"), out, None, networks, held_out, items)
    print((out / "metrics.md").read_text())


if __name__ == "__main__":
    main()
