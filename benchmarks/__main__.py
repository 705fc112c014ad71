"""`python -m benchmarks`: print every table that this machine can produce."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import compiled, generation_decode, generation_diffusion, tokenizer, training
from benchmarks.measure import describe_machine, device, measure_ceilings
from benchmarks.rooflines import SHAPES, shape_name

TABLES = ("tokenizer", "compiled", "training", "decode", "diffusion")


def main() -> None:
    """Time the tokenizer on the CPU, and on a GPU its compiled form, the training step and generation."""
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
    arguments = parser.parse_args()
    wanted = TABLES if arguments.only is None else (arguments.only,)
    print(describe_machine())
    if "tokenizer" in wanted:
        tokenizer.run(arguments.configs, arguments.runs)
    if device().type != "cuda":
        print("The other tables need a CUDA device; they are skipped.")
        return
    ceilings = measure_ceilings()
    if "compiled" in wanted:
        baseline = [shapes[name] for name in arguments.compiled_baseline]
        for config in arguments.configs:
            compiled.run(config, arguments.runs, ceilings, baseline)
    if "training" in wanted:
        training.run(arguments.vgg, arguments.runs)
    if "decode" in wanted:
        generation_decode.run(ceilings)
    if "diffusion" in wanted:
        generation_diffusion.run(arguments.runs, ceilings)


if __name__ == "__main__":
    main()
