"""`python -m benchmarks`: print every table that can be made on this machine."""

from __future__ import annotations

import argparse

from benchmarks import tokenizer
from benchmarks.measure import describe_machine


def main() -> None:
    """Time the tokenizer of the named configs on the device that is here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", default=["demo", "published"], help="named geometries, random weights")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each cell, after two that are not")
    arguments = parser.parse_args()
    print(describe_machine())
    tokenizer.run(arguments.configs, arguments.runs)


if __name__ == "__main__":
    main()
