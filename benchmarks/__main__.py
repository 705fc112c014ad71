"""`python -m benchmarks`: print every table that can be made on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import tokenizer, training
from benchmarks.measure import describe_machine


def main() -> None:
    """Time the tokenizer of the named configs, and the training step, on the device that is here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("tokenizer", "training"), help="one of the tables")
    parser.add_argument("--configs", nargs="+", default=["demo", "published"], help="named geometries, random weights")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each cell, after two that are not")
    parser.add_argument("--vgg", type=Path, help="weights of the perceptual trunk, which the full training step needs")
    arguments = parser.parse_args()
    print(describe_machine())
    if arguments.only != "training":
        tokenizer.run(arguments.configs, arguments.runs)
    if arguments.only != "tokenizer":
        training.run(arguments.vgg, arguments.runs)


if __name__ == "__main__":
    main()
