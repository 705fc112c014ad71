"""Tokenizers that the commands work with: a bundle on this machine, or a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from media.frame_reader import FrameReader
from service.cli.batch import InputFile
from service.cli.destination import Choose, Target
from service.cli.options import TokenizerLocation, choose_bundle
from service.cli.outputs import Part
from service.formats.result import EncodeResult
from service.operations.options import DecodeOptions, EncodeOptions


class CommandTokenizer(Protocol):
    """A tokenizer as the commands see it. Each method raises an error of `service.cli.errors.EXPECTED`."""

    def encode(self, source: InputFile, options: EncodeOptions) -> EncodeResult:
        """Encode a file of media."""
        ...

    def decode(self, source: InputFile, result: EncodeResult, options: DecodeOptions, choose: Choose) -> Target:
        """Decode tokens into the file that `choose` names for a number of frames, and return that file."""
        ...

    def reconstruct(self, reader: FrameReader, model: str | None) -> Iterator[tuple[Part, Part]]:
        """Return parts of a clip and their reconstructions, uint8 RGB (n, H, W, 3) each."""
        ...


@contextmanager
def opened(location: TokenizerLocation) -> Iterator[CommandTokenizer]:
    """Yield the tokenizer of a bundle or of a service.

    Raises:
        CommandError: the bundle is not sound, its device is not there, or the service does not answer.
    """
    if location.server is None:
        from service.cli.offline import LocalTokenizer

        yield LocalTokenizer(choose_bundle(location.bundle), location.device)
        return
    from service.cli.remote import ServiceTokenizer, connected

    with connected(location.server, location.api_key) as client:
        yield ServiceTokenizer(client)
