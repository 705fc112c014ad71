"""`python -m benchmarks.service.stub`: the service with a device that sleeps.

One that takes 2 ms a batch, whatever is in it, leaves the way from a socket to a GPU to be measured. One that takes
time for each item has a known capacity, at which overload can be measured. `OMNITOK_*` variables apply, but for the
bundle.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.cluster import app
from service.cluster.replicas import Tokenizer
from service.scheduling.executor import Fetch
from service.settings import Settings
from service.types import TokenizerKey

BATCH_MS, ITEM_MS = "STUB_BATCH_MS", "STUB_ITEM_MS"  # variables that reach the replicas


class StubTokenizer(Tokenizer):
    """A tokenizer replica whose engine sleeps, and encodes everything to zeros."""

    def __init__(self, settings: Settings) -> None:
        from service.engine import tokenizer

        batch_ms, item_ms = float(os.environ.get(BATCH_MS, "2")), float(os.environ.get(ITEM_MS, "0"))

        class StubEngine(tokenizer.Engine):
            def launch(self, key: TokenizerKey, payloads: Sequence[Any], staged: Any = None) -> Fetch:
                def fetch() -> list[Any]:
                    time.sleep((batch_ms + item_ms * len(payloads)) / 1e3)
                    card = self.cards[0]
                    grid = card.geometry.grid(key.size)
                    zeros = np.zeros(grid, np.uint16), np.zeros((*grid, card.latent_channels), np.float32)
                    return [zeros for _ in payloads]

                return fetch

        tokenizer.Engine = StubEngine  # type: ignore[misc]
        super().__init__(settings)


def main(
    batch_ms: Annotated[float, typer.Option(help="Time of a batch.")] = 2.0,
    item_ms: Annotated[float, typer.Option(help="Time of each item in it.")] = 0.0,
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    os.environ |= {BATCH_MS: str(batch_ms), ITEM_MS: str(item_ms)}
    app.Tokenizer = StubTokenizer  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "stub"
        save_bundle(bundle, OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights.")
        app.serve_forever(Settings(bundles=(bundle,), device="cpu"))


if __name__ == "__main__":
    typer.run(main)
