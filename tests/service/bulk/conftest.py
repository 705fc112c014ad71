"""A folder of pictures and clips, a random bundle, and a run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bulk_samples import EXECUTOR, SQUARES, clip, photo

from model.bundle import save_bundle
from model.codes.info import EncodingOptions
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.bulk.job import Job, Outcome, Request


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bulk-bundle") / "debug"
    save_bundle(path, OmniTokenizer(CONFIGS["debug"]).eval(), "random weights")
    return path


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of two classes, a damaged and an empty one, and a clip of each class, one of them short."""
    folder = tmp_path_factory.mktemp("bulk-source")
    for seed in range(7):
        path = folder / ("ant" if seed % 2 else "bee") / f"{seed}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(seed, 48, 64) if seed % 3 else photo(seed, 70, 40))
    (folder / "ant" / "cut.jpg").write_bytes(photo(9)[:200])
    (folder / "bee" / "none.png").touch()
    (folder / "ant" / "long.mp4").write_bytes(clip(0, 9))
    (folder / "bee" / "short.mp4").write_bytes(clip(1, 3))
    return folder


@pytest.fixture
def tokenize(bundle: Path, source: Path) -> Callable[..., Outcome]:
    """Run in this process; arguments as of `Request`."""

    def run(dest: Path, of: Path = source, options: EncodingOptions = SQUARES, **changes: Any) -> Outcome:
        executor = changes.pop("executor", EXECUTOR)
        return Job(Request(of, dest, bundle, options, **changes)).run(executor)

    return run
