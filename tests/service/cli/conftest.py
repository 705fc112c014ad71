"""Bundles, real media and a way to run the command, for its tests."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

import numpy as np
import pytest
import torch
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from toy_generators import ToyGenerators

from media.write import encode_video
from model.bundle import read_config, save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS, TokenizerConfig, VAEConfig
from model.tokenizer.tokenizer import OmniTokenizer
from service.api.app import create_app
from service.cli import main
from service.engine.tokenizer import Engine
from service.in_process import LocalBackend, Unobserved, job_runner, job_store
from service.jobs.queue import LocalJobQueue
from service.sandbox.pool import MediaPool
from service.settings import Settings

VARIANTS: dict[str, TokenizerConfig] = {
    "debug": CONFIGS["debug"],
    "whole": replace(CONFIGS["debug"], temporal_order="published", temporal_window=None),
    "vae": replace(CONFIGS["debug"], head=VAEConfig(dim=4)),
}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one random bundle of each variant, a language model over `debug`, and a Latte over `vae`."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed, (name, config) in enumerate(VARIANTS.items()):
        torch.manual_seed(seed)
        save_bundle(folder / name, OmniTokenizer(config).eval(), f"# {name}", licence="Apache-2.0")
    for name, tokenizer in (("lm", "debug"), ("latte", "vae")):
        network = make_generator(GENERATOR_CONFIGS[f"{name}-debug"]).eval()
        tokenizer_hash = read_config(folder / tokenizer).hash
        save_generator(folder / name, network, f"# {name}", tokenizer_hash, ("ant", "bee", "cow", "coinrun"))
    return folder


def moving_pattern(frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """A clip of coloured blocks that drift: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(frames * height + width)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    picture = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    return np.stack([np.roll(picture, (step, 2 * step), (0, 1)) for step in range(frames)])


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small media: picture.png, picture.npy, clip.mp4, clip.webm, clip.npy, animation.gif."""
    folder = tmp_path_factory.mktemp("media")
    picture, clip = moving_pattern(1, 35, 50)[0], moving_pattern(11, 32, 42)
    Image.fromarray(picture).save(folder / "picture.png")
    np.save(folder / "picture.npy", picture)
    np.save(folder / "clip.npy", clip)
    for name, media_type in (("clip.mp4", "video/mp4"), ("clip.webm", "video/webm"), ("animation.gif", "image/gif")):
        (folder / name).write_bytes(encode_video(clip, media_type, fps=12.5))
    return folder


@dataclass(frozen=True)
class Run:
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def omnitok(
    bundles: Path,
    media: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Run]]:
    """Run `omnitok` in this process and in an empty folder; {b} is the bundles' folder, {m} that of the media."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    handler = signal.getsignal(signal.SIGTERM)

    def run(line: str, **more: Any) -> Run:
        words = [word.format(b=bundles, m=media, **more) for word in shlex.split(line)]
        monkeypatch.setattr(sys, "argv", ["omnitok", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Run(int(ended.value.code or 0), *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of both tiers in one process on loopback, with the debug and the VAE bundle, and toy generators."""
    engine = Engine([bundles / "debug", bundles / "vae"], device="cpu", dtype="float32", threads=1)
    settings = Settings()
    backend = LocalBackend(engine.cards, engine.launch, settings, Unobserved())
    pool = MediaPool(settings.limits, workers=1)
    debug, vae = engine.cards
    generators = ToyGenerators(debug, vae)
    jobs = LocalJobQueue(job_store(settings, tmp_path_factory.mktemp("jobs")))
    app = create_app(backend, pool, settings, generators=generators, jobs=jobs)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))

    async def serve() -> None:
        await pool.start()
        runner = job_runner(jobs, backend, generators, pool, settings)
        runner.start()
        try:
            await uvicorn_server.serve()
        finally:
            await runner.stop()
            jobs.close()
            backend.close()
            await pool.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    while not uvicorn_server.started and thread.is_alive():
        thread.join(0.05)
    assert uvicorn_server.started
    port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    uvicorn_server.should_exit = True
    thread.join()
