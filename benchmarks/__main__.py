"""`python -m benchmarks`: print every table that can be made on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import compiled, tokenizer, training
from benchmarks.measure import describe_machine, device, measure_ceilings
from benchmarks.rooflines import SHAPES, named

TABLES = ("tokenizer", "compiled", "training")


def main() -> None:
    """Time the tokenizer of the named configs as modules and compiled, and the training step, on the device here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TABLES, help="one of the tables")
    parser.add_argument("--configs", nargs="+", default=["demo", "published"], help="named geometries, random weights")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each cell, after two that are not")
    parser.add_argument("--vgg", type=Path, help="weights of the perceptual trunk, which the full training step needs")
    shapes = {named(shape): shape for shape in SHAPES}
    parser.add_argument(
        "--compiled-baseline",
        nargs="+",
        choices=list(shapes),
        default=[],
        metavar="SHAPE",
        help=f"where torch.compile is timed too, which takes minutes to compile: {', '.join(shapes)}",
    )
    parser.add_argument("--out", type=Path, help="folder for the compiled tokenizer's figures (JSON) and plots (PNG)")
    arguments = parser.parse_args()
    wanted = TABLES if arguments.only is None else (arguments.only,)
    print(describe_machine())
    if "tokenizer" in wanted:
        tokenizer.run(arguments.configs, arguments.runs)
    if "compiled" in wanted:
        if device().type == "cuda":
            ceilings = measure_ceilings()
            baseline = [shapes[name] for name in arguments.compiled_baseline]
            for config in arguments.configs:
                compiled.run(config, arguments.runs, ceilings, baseline, arguments.out)
        else:
            print("the compiled tokenizer is timed on a CUDA device only")
    if "training" in wanted:
        training.run(arguments.vgg, arguments.runs)


if __name__ == "__main__":
    main()
