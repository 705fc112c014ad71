"""`python -m benchmarks.service.stub`: the service with a device that takes 2 ms a batch, whatever is in it.

What `python -m benchmarks.service` measures of it is the way from a socket to a GPU. `OMNITOK_*` variables
apply, but for the bundle.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.cluster import app
from service.cluster.replicas import Tokenizer
from service.scheduling.executor import Fetch
from service.settings import Settings
from service.types import TokenizerKey

BATCH_SECONDS = 0.002


class StubTokenizer(Tokenizer):
    """A tokenizer replica whose engine sleeps, and encodes everything to zeros."""

    def __init__(self, settings: Settings) -> None:
        from service.engine import tokenizer

        class StubEngine(tokenizer.Engine):
            def launch(self, key: TokenizerKey, payloads: Sequence[Any]) -> Fetch:
                def fetch() -> list[Any]:
                    time.sleep(BATCH_SECONDS)
                    card = self.cards[0]
                    grid = card.geometry.grid(key.size)
                    zeros = np.zeros(grid, np.uint16), np.zeros((*grid, card.latent_channels), np.float32)
                    return [zeros for _ in payloads]

                return fetch

        tokenizer.Engine = StubEngine  # type: ignore[misc]
        super().__init__(settings)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    app.Tokenizer = StubTokenizer  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "stub"
        save_bundle(bundle, OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights.")
        app.serve_forever(Settings(bundles=(bundle,), device="cpu"))


if __name__ == "__main__":
    main()
