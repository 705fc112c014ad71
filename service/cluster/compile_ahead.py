"""`python -m service.cluster.compile_ahead h100 h200`: fill Triton's cache with the kernels of the settings' bundles.

No GPU is needed. Both precisions are compiled, so that either starts at once.
"""

from __future__ import annotations

import subprocess
import sys

from service.engine.compile_ahead import compile_ahead
from service.settings import Settings


def main(gpus: list[str]) -> None:
    """Compile for each GPU and precision in a process of its own, and wait for all."""
    for gpu in gpus:
        for dtype in ("float32", "bfloat16"):
            subprocess.run([sys.executable, "-m", "service.cluster.compile_ahead", gpu, dtype], check=True)


if __name__ == "__main__":
    if sys.argv[-1] in ("float32", "bfloat16"):
        settings = Settings()
        for path in settings.bundles:
            bounds = settings.max_batch_tokens, settings.max_batch_requests
            compile_ahead(path, sys.argv[1], sys.argv[-1], settings.warm_sizes, *bounds)
    else:
        main(sys.argv[1:])
