"""The work of a job in bytes: what to generate from which frames, and in which form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from service.formats.codes import read_codes, write_codes
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack, unpack
from service.formats.result import EncodeResult
from service.formats.tensors import pack_tensor, unpack_tensor
from service.operations.clip import ClipSource
from service.operations.options_generate import GenerateOptions
from service.operations.samples import SampleForm

MAX_BYTES = 2**31 - 1  # what came in was bounded


@dataclass(frozen=True)
class JobRequest:
    """The work of a job.

    Args:
        source: frames to continue, or None.
        options: of generate, with the seed that every run uses.
        form: of the content.
        bundle: hash of the generator that was planned, "" for any.
    """

    source: ClipSource | EncodeResult | None
    options: GenerateOptions
    form: SampleForm
    bundle: str = ""

    @property
    def fingerprint(self) -> str:
        """Return a digest that equal requests share."""
        return hashlib.sha256(self.pack()).hexdigest()

    def pack(self) -> bytes:
        """Return the bytes of this request."""
        return pack(
            {
                "source": _packed(self.source),
                "options": self.options.model_dump(mode="json", by_alias=True, exclude_unset=True),
                "form": [self.form.media_type, self.form.pixels_type],
                "bundle": self.bundle,
            }
        )

    @classmethod
    def unpack(cls, data: bytes) -> JobRequest:
        """Return the request in what `pack` returned."""
        fields = unpack(data, MAX_BYTES)
        options = GenerateOptions.model_validate(fields["options"])
        return cls(_source(fields["source"]), options, SampleForm(*fields["form"]), fields["bundle"])


def _packed(source: ClipSource | EncodeResult | None) -> dict[str, Any]:
    if source is None:
        return {}
    if isinstance(source, EncodeResult):
        return {"codes": write_codes(source, MSGPACK)}
    if source.array is not None:
        return {"array": pack_tensor(source.array)}
    return {"media": source.media, "declared": source.declared}


def _source(fields: dict[str, Any]) -> ClipSource | EncodeResult | None:
    if "codes" in fields:
        return read_codes(fields["codes"], MSGPACK, MAX_BYTES)
    if "array" in fields:
        return ClipSource(array=unpack_tensor(fields["array"], "`array`"))
    return ClipSource(fields["media"], fields["declared"]) if fields else None
