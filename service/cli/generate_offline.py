"""Generators of bundles on this machine: the use case of the service, with the networks in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from model.bundle_files import BundleError, read_config
from model.bundle_header import read_generator, read_tokenizer
from model.compatibility import check_compatible
from service.cli.errors import CommandError
from service.cli.generators import OnProgress, Prefix
from service.cli.inputs import open_media
from service.cli.options import DEFAULT_BUNDLE, Device, bundles_in, read_settings
from service.engine.card import generator_card, model_card
from service.engine.lane import LaneOptions
from service.formats.result import EncodeResult
from service.formats.samples import Samples
from service.in_process import LocalBackend, LocalGenerators, Unobserved
from service.operations.clip import ClipSource
from service.operations.events import Event, Progress
from service.operations.generate import generate, plan_source
from service.operations.generate_plan import CONTEXT_LATENT_FRAMES
from service.operations.options_generate import MAX_SAMPLES, GenerateOptions
from service.operations.samples import sample_arrays
from service.sandbox.pool import MediaPool

UNLIMITED = 2**40
FOREVER_SECONDS = 1e9


class LocalGenerator:
    """A generator and its tokenizer, which run on this machine. What can be made loads their networks.

    Args:
        bundle: the generator's folder.
        tokenizer: the folder of its tokenizer; None looks next to the bundle and in `bundles`.
        device: where to run them.
        samples: how many are made at a time.

    Raises:
        CommandError: a folder is not a bundle of its kind, or the tokenizer is another.
    """

    def __init__(self, bundle: Path, tokenizer: Path | None, device: Device, samples: int) -> None:
        self._settings = read_settings(
            max_queue_tokens=UNLIMITED,
            max_queue_seconds=UNLIMITED,
            max_queue_samples=MAX_SAMPLES,
            request_seconds=FOREVER_SECONDS,
            generate_seconds=FOREVER_SECONDS,
        )
        self._options = LaneOptions(
            min(2 * samples, self._settings.generator_slots),
            self._settings.prefill_tokens,
            self._settings.generator_dtype,
        )
        try:
            header = read_generator(bundle)
            tokenizer = tokenizer or _find_tokenizer(bundle, header.tokenizer_hash)
            speaks = read_tokenizer(tokenizer)
            if (found := speaks.hash) != (wanted := header.tokenizer_hash):
                raise CommandError(
                    f"{bundle} needs the tokenizer {wanted[:12]}, and {tokenizer} is {found[:12]}: name that one with "
                    "--tokenizer, or leave it out to have it found."
                )
            check_compatible([bundle], [tokenizer])
        except BundleError as error:
            raise CommandError(str(error)) from error
        self._bundle, self._tokenizer, self._device = bundle, tokenizer, device
        self._card = model_card(speaks, device, "float32")
        self._generator = replace(generator_card(header, device, self._options), tokenizer=speaks.name)

    def generate(self, prefix: Prefix | None, options: GenerateOptions, on_progress: OnProgress) -> Samples:
        """Make samples.

        Raises:
            CommandError: the prefix cannot be read, a bundle is damaged, or the device is not there.
            ProblemError: what the generator cannot do.
        """
        source: ClipSource | EncodeResult | None = None
        if isinstance(prefix, Path):
            source, options = self._read(prefix, options)
        elif prefix is not None:
            source = prefix
        plan_source([self._card], [self._generator], source, options, self._settings.limits)  # or torch would load
        return asyncio.run(self._generate(source, options, on_progress))

    async def _generate(
        self, source: ClipSource | EncodeResult | None, options: GenerateOptions, on_progress: OnProgress
    ) -> Samples:
        def on_event(event: Event) -> None:
            if isinstance(event, Progress):
                on_progress(event.done, event.total)

        limits = self._settings.limits
        unused = MediaPool(limits, workers=1)  # frames are read already, of a file that is the user's own
        with self._networks() as (backend, generators):
            return sample_arrays(await generate(backend, generators, unused, source, options, limits, on_event))

    def _read(self, path: Path, options: GenerateOptions) -> tuple[ClipSource, GenerateOptions]:
        """Return the frames to continue, and the options that are left once they are read."""
        _, height, width = self._card.geometry.size(self._generator.grid)
        frames = options.prefix_frames or 1 + self._card.temporal_patch * (CONTEXT_LATENT_FRAMES - 1)
        with open_media(path, options.prefix_request(height, width, frames).media()) as reader:
            pixels = np.stack(list(reader))
            fps = options.fps or reader.info().kept_fps
        given = options.model_dump(by_alias=True, exclude_unset=True, exclude={"fit", "start_s", "end_s"})
        return ClipSource(array=pixels), GenerateOptions.model_validate(given | {"fps": fps})

    @contextmanager
    def _networks(self) -> Iterator[tuple[LocalBackend, LocalGenerators]]:
        import torch

        from service.engine.generator import GeneratorEngine
        from service.engine.tokenizer import Engine

        threads = torch.get_num_threads()
        try:
            engine = GeneratorEngine.load([self._bundle], self._device, threads, self._options)
            tokenizers = Engine([self._tokenizer], self._device, "float32", threads)
        except ValueError as error:  # a BundleError is one
            raise CommandError(str(error)) from error
        backend = LocalBackend(tokenizers.cards, tokenizers.launch, self._settings, Unobserved())
        generators = LocalGenerators(engine, self._settings, Unobserved())
        try:
            yield backend, generators
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
