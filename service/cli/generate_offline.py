"""Generators of bundles on this machine: the use case of the service, with the networks in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from model.bundle import BundleError, read_config
from service.cli.errors import CommandError
from service.cli.generators import OnProgress, Prefix
from service.cli.inputs import open_media
from service.cli.options import DEFAULT_BUNDLE, Device, bundles_in, read_settings
from service.engine.generator import GeneratorEngine
from service.engine.lane import LaneOptions
from service.engine.tokenizer import Engine
from service.formats.result import EncodeResult
from service.formats.samples import Samples
from service.in_process import LocalBackend, LocalGenerators, Unobserved
from service.operations.clip import ClipSource
from service.operations.events import Event, Progress
from service.operations.generate import generate
from service.operations.generate_plan import CONTEXT_LATENT_FRAMES
from service.operations.generators import find_generator, served
from service.operations.options_generate import MAX_SAMPLES, GenerateOptions
from service.operations.samples import sample_arrays
from service.sandbox.pool import MediaPool
from service.settings import Limits

UNLIMITED = 2**40
FOREVER_SECONDS = 1e9


class LocalGenerator:
    """A generator and its tokenizer, which run on this machine.

    Args:
        backend: the tokenizer.
        generators: the generator.
        limits: of one request, as a service has them.
    """

    def __init__(self, backend: LocalBackend, generators: LocalGenerators, limits: Limits) -> None:
        self._backend, self._generators, self._limits = backend, generators, limits

    def generate(self, prefix: Prefix | None, options: GenerateOptions, on_progress: OnProgress) -> Samples:
        """Make samples.

        Raises:
            CommandError: the prefix cannot be read.
            ProblemError: what the generator cannot do.
        """
        return asyncio.run(self._generate(prefix, options, on_progress))

    async def _generate(self, prefix: Prefix | None, options: GenerateOptions, on_progress: OnProgress) -> Samples:
        def on_event(event: Event) -> None:
            if isinstance(event, Progress):
                on_progress(event.done, event.total)

        source: ClipSource | EncodeResult | None = None
        if isinstance(prefix, Path):
            source, options = await self._read(prefix, options)
        elif prefix is not None:
            source = prefix
        unused = MediaPool(self._limits, workers=1)  # frames are read already, of a file that is the user's own
        made = await generate(self._backend, self._generators, unused, source, options, self._limits, on_event)
        return sample_arrays(made)

    async def _read(self, path: Path, options: GenerateOptions) -> tuple[ClipSource, GenerateOptions]:
        """Return the frames to continue, and the options that are left once they are read."""
        (card,), generators = await served(self._backend, self._generators)
        generator = find_generator(generators, None)
        _, height, width = card.geometry.size(generator.grid)
        frames = options.prefix_frames or 1 + card.temporal_patch * (CONTEXT_LATENT_FRAMES - 1)
        with open_media(path, options.prefix_request(height, width, frames).media()) as reader:
            pixels = np.stack(list(reader))
            fps = options.fps or reader.info().kept_fps
        given = options.model_dump(by_alias=True, exclude_unset=True, exclude={"fit", "start_s", "end_s"})
        return ClipSource(array=pixels), GenerateOptions.model_validate(given | {"fps": fps})


@contextmanager
def local_generator(bundle: Path, tokenizer: Path | None, device: Device, samples: int) -> Iterator[LocalGenerator]:
    """Yield the generator of a bundle.

    Args:
        bundle: the bundle's folder.
        tokenizer: the folder of its tokenizer; None looks next to the bundle and in `bundles`.
        device: where to run them.
        samples: how many are made at a time.

    Raises:
        CommandError: a folder is not a sound bundle, the tokenizer is another, or the device is not there.
    """
    settings = read_settings(
        max_queue_tokens=UNLIMITED,
        max_queue_seconds=UNLIMITED,
        max_queue_samples=MAX_SAMPLES,
        request_seconds=FOREVER_SECONDS,
        generate_seconds=FOREVER_SECONDS,
    )
    options = LaneOptions(min(2 * samples, settings.generator_slots), settings.prefill_tokens, settings.generator_dtype)
    threads = torch.get_num_threads()
    try:
        wanted = read_config(bundle).tokenizer_hash
        if wanted is None:
            raise CommandError(f"{bundle} is a tokenizer; name a generator bundle.")
        tokenizer = tokenizer or _find_tokenizer(bundle, wanted)
        if (found := read_config(tokenizer).hash) != wanted:
            raise CommandError(
                f"{bundle} needs the tokenizer {wanted[:12]}, and {tokenizer} is {found[:12]}: name that one with "
                "--tokenizer, or leave it out to have it found."
            )
        engine = GeneratorEngine.load([bundle], device, threads, options, [tokenizer])
        tokenizers = Engine([tokenizer], device, "float32", threads)
    except (BundleError, ValueError) as error:
        raise CommandError(str(error)) from error
    backend = LocalBackend(tokenizers.cards, tokenizers.launch, settings, Unobserved())
    generators = LocalGenerators(engine, settings, Unobserved())
    try:
        yield LocalGenerator(backend, generators, settings.limits)
    finally:
        generators.close()
        backend.close()


def _find_tokenizer(bundle: Path, wanted: str) -> Path:
    """Return the tokenizer with the hash that a generator names, from its own folder or from the default one."""
    folders = bundle.resolve().parent, DEFAULT_BUNDLE.parent
    for path in chain.from_iterable(map(bundles_in, folders)):
        with suppress(BundleError):  # damaged ones
            if read_config(path).hash == wanted:
                return path
    searched = " or in ".join(map(str, folders))
    raise CommandError(f"No bundle in {searched} is the tokenizer {wanted} of {bundle}; name it with --tokenizer.")
