"""Streams of codes or pixels as a sequence of msgpack maps: a description, parts, and an end that they are checked by.

Every map has the key `record`: `begin`, `part`, `end`, or `problem` in place of what did not come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import ProblemError
from service.formats.msgpack import Unpacker, pack
from service.formats.result import EncodeMeta, Extent, Hash, Steps
from service.formats.tensors import pack_tensor, unpack_tensor
from service.formats.validation import field_errors

Content = Literal["tokens", "latents", "pixels"]
CONTENTS: tuple[Content, ...] = ("tokens", "latents", "pixels")


class Begin(BaseModel):
    """The first record: what is known before the clip has ended. Hand-made ones may leave out all but `bundle`.

    Args:
        id: request id.
        model: name of the bundle; `bundle`: its content hash; `kind`: its head.
        codebook_size: number of codes, None for a VAE.
        height, width: of the frames, pixels, before the model's own padding.
        fps: rate of the frames, frames per second, as far as it is known.
        preprocess: the steps before the network.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    record: Literal["begin"] = "begin"
    id: str | None = None
    model: str | None = None
    bundle: Hash | None = None
    kind: Literal["vq", "vae"] | None = None
    codebook_size: int | None = None
    height: Extent | None = None
    width: Extent | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    preprocess: Steps | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the clip: tokens (t, h, w), latents (t, h, w, c), or uint8 RGB pixels (n, H, W, 3)."""

    content: Content
    array: NDArray[Any]


class End(BaseModel):
    """The last record of a whole stream.

    Args:
        parts: how many came.
        frames: pixel frames of the clip, before the model's own padding.
        sha256: of the bytes of all parts in order, 64 hex digits.
        meta: of the whole clip, as in an answer of `/encode` that is not a stream.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    record: Literal["end"] = "end"
    parts: Annotated[int, Field(ge=0)] | None = None
    frames: Annotated[int, Field(ge=1)] | None = None
    sha256: Hash | None = None
    meta: EncodeMeta | None = None


Record = Begin | Part | End


class RecordWriter:
    """A writer of the records of one stream."""

    def __init__(self) -> None:
        self._digest, self._parts = hashlib.sha256(), 0

    def begin(self, begin: Begin) -> bytes:
        """Return the first record."""
        return pack(begin.model_dump())

    def part(self, part: Part) -> bytes:
        """Return a part."""
        envelope = pack_tensor(part.array)
        self._digest.update(envelope["data"])
        self._parts += 1
        return pack({"record": "part", part.content: envelope})

    def end(self, frames: int | None, meta: EncodeMeta | None = None) -> bytes:
        """Return the last record."""
        end = End(parts=self._parts, frames=frames, sha256=self._digest.hexdigest(), meta=meta)
        return pack(end.model_dump())


def write_problem(document: dict[str, Any]) -> bytes:
    """Return the record that ends a stream which failed."""
    return pack({"record": "problem", "problem": document})


class FailedStreamError(Exception):
    """The stream that is read ends with a problem; `document` holds it."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(str(document.get("detail")))
        self.document = document


class RecordReader:
    """A reader of the records of one stream, which may be hostile; it checks that none is missing.

    Args:
        max_bytes: the most that a part may hold.

    Attributes:
        ended: whether the last record has come.
    """

    def __init__(self, max_bytes: int = 2**30) -> None:
        self._unpacker = Unpacker(max_bytes)
        self._digest, self._parts = hashlib.sha256(), 0
        self._begun = self.ended = False

    def feed(self, data: bytes) -> Iterator[Record]:
        """Yield the records that are complete now; exhaust it before the next call.

        Raises:
            ProblemError: a record is malformed, out of order, missing or damaged.
            FailedStreamError: the stream ends with a problem.
        """
        for fields in self._unpacker.feed(data):
            yield self._record(fields)

    def close(self) -> None:
        """Check that the stream came to its end.

        Raises:
            ProblemError: `malformed-body`.
        """
        if not self.ended:
            raise ProblemError("malformed-body", f"The stream broke off after {self._parts} parts, without its end.")

    def _record(self, fields: dict[str, Any]) -> Record:
        kind = fields.get("record")
        if self.ended:
            raise ProblemError("malformed-body", "A record follows the end of the stream.")
        if kind == "problem" and isinstance(document := fields.get("problem"), dict):
            raise FailedStreamError(document)
        if (kind == "begin") == self._begun or kind not in ("begin", "part", "end"):
            detail = "`record` must be `begin` in the first record, then `part`, and `end` in the last."
            raise ProblemError("malformed-body", detail)
        self._begun = True
        if kind == "begin":
            return _parse(Begin, fields)
        return self._part(fields) if kind == "part" else self._end(fields)

    def _part(self, fields: dict[str, Any]) -> Part:
        names = [name for name in CONTENTS if name in fields]
        if len(names) != 1 or len(fields) != 2:
            raise ProblemError("malformed-body", f"A part must hold one of {', '.join(CONTENTS)}, and nothing else.")
        array = unpack_tensor(fields[names[0]], f"`{names[0]}`")
        self._digest.update(array.reshape(-1).view(np.uint8).data)
        self._parts += 1
        return Part(names[0], array)

    def _end(self, fields: dict[str, Any]) -> End:
        end = _parse(End, fields)
        if end.parts not in (None, self._parts):
            raise ProblemError("malformed-body", f"The end counts {end.parts} parts; {self._parts} came.")
        if end.sha256 not in (None, self._digest.hexdigest()):
            raise ProblemError("malformed-body", "The parts are not those whose SHA-256 is in the end.")
        self.ended = True
        return end


def _parse(kind: Any, fields: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        detail = "A record is invalid; `errors` names its fields."
        raise ProblemError("invalid-options", detail, errors=field_errors(error, kind)) from error
