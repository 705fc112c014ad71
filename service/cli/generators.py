"""Generators that `omnitok generate` works with: a bundle on this machine, or a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import typer

from service.cli.options import DeviceOption, KeyOption, ServerOption, choose_bundle
from service.formats.result import EncodeResult
from service.formats.samples import Samples
from service.operations.options_generate import GenerateOptions

DEFAULT_GENERATOR = Path("bundles/demo-lm")

OnProgress = Callable[[int, int], None]  # steps done, steps in all
Prefix = Path | EncodeResult  # a file of media, or tokens


@dataclass(frozen=True)
class GeneratorLocation:
    """The location of a generator: a bundle on this machine with its tokenizer, or a service."""

    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Generator bundle.", show_default=str(DEFAULT_GENERATOR)),
    ] = None
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Tokenizer bundle.", show_default="the one that the generator names, next to it or in bundles"
        ),
    ] = None
    server: ServerOption = None
    api_key: KeyOption = None
    device: DeviceOption = "auto"

    def check(self, model: str | None) -> None:
        """Refuse options of offline work and of a server together.

        Raises:
            typer.BadParameter: they are mixed.
        """
        for name, value in (("--bundle", self.bundle), ("--tokenizer", self.tokenizer)):
            if self.server is not None and value is not None:
                raise typer.BadParameter("A server uses its own bundles; name one with --model.", param_hint=name)
        if self.server is None and model is not None:
            raise typer.BadParameter("This names a model of a server; offline, use --bundle.", param_hint="--model")


class CommandGenerator(Protocol):
    """A generator as the command sees it."""

    def generate(self, prefix: Prefix | None, options: GenerateOptions, on_progress: OnProgress) -> Samples:
        """Make samples.

        Raises:
            An error of `service.cli.errors.EXPECTED`.
        """
        ...


@contextmanager
def opened(location: GeneratorLocation, samples: int) -> Iterator[CommandGenerator]:
    """Yield the generator of a bundle or of a service.

    Args:
        location: of the generator.
        samples: how many are made at a time.

    Raises:
        CommandError: a bundle is not sound, its device is not there, or the service does not answer.
    """
    if location.server is None:
        from service.cli.generate_offline import LocalGenerator

        bundle = choose_bundle(location.bundle, DEFAULT_GENERATOR)
        yield LocalGenerator(bundle, location.tokenizer, location.device, samples)
        return
    from service.cli.generate_remote import ServiceGenerator
    from service.cli.remote import connected

    with connected(location.server, location.api_key) as client:
        yield ServiceGenerator(client)
