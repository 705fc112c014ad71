"""`python -m benchmarks`: print every table that this machine can produce."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import compiled, tokenizer, training
from benchmarks.measure import describe_machine, device, measure_ceilings
from benchmarks.rooflines import SHAPES, shape_name

TABLES = ("tokenizer", "compiled", "training")


def main() -> None:
    """Time the tokenizer as modules and compiled, and the training step, on this machine's device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TABLES, help="one of the tables")
    parser.add_argument("--configs", nargs="+", default=["demo", "published"], help="named geometries, random weights")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each cell, after two warm-up runs")
    parser.add_argument("--vgg", type=Path, help="weights of the perceptual network, for the full training step")
    shapes = {shape_name(shape): shape for shape in SHAPES}
    parser.add_argument(
        "--compiled-baseline",
        nargs="+",
        choices=list(shapes),
        default=[],
        metavar="SHAPE",
        help=f"shapes timed under torch.compile too, which compiles for minutes: {', '.join(shapes)}",
    )
    parser.add_argument("--out", type=Path, help="output folder of the compiled tokenizer's JSON and PNG files")
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
            print("The compiled tokenizer needs a CUDA device; its table is skipped.")
    if "training" in wanted:
        training.run(arguments.vgg, arguments.runs)


if __name__ == "__main__":
    main()
