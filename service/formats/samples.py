"""Samples of a generator in one body: arrays in msgpack, or files in JSON and in a zip."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from media.identify import IMAGE_OUTPUTS, VIDEO_OUTPUTS
from service.errors import ProblemError
from service.formats import msgpack
from service.formats.codes import read_codes
from service.formats.media_types import JSON, MSGPACK, NPY, NPZ, ZIP
from service.formats.result import ClipSize, EncodeResult, Hash, Strict
from service.formats.tensors import pack_tensor, unpack_tensor

# The first one is the default: every desktop opens a zip.
SAMPLES_TYPES = (ZIP, MSGPACK, JSON)
SUFFIXES = {name: f".{name.rpartition('/')[2]}" for name in (*IMAGE_OUTPUTS, *VIDEO_OUTPUTS)} | {
    NPZ: ".npz",
    NPY: ".npy",
}
META_MEMBER = "samples.json"


class SamplesMeta(BaseModel):
    """The description of samples.

    Args:
        id: request id.
        model, bundle: id and content hash of the generator.
        tokenizer, tokenizer_bundle: id and content hash of the tokenizer whose codes it makes.
        class_id, class_name: of the samples, None without one.
        seed: of the request; with it, the same options make the same samples.
        params: settings that were used, defaults filled in.
        size: extents of each sample; `fps`: its rate, None for a picture.
        prefix_frames: frames at the start that were given.
    """

    model_config = Strict
    id: str | None
    model: str
    bundle: Hash
    tokenizer: str
    tokenizer_bundle: Hash
    class_id: int | None
    class_name: str | None
    seed: int
    params: dict[str, int | float | str]
    size: ClipSize
    fps: float | None
    prefix_frames: int


@dataclass(frozen=True, eq=False)
class SampleArrays:
    """One sample: uint8 RGB pixels (T, H, W, 3), and its tokens or latents as `/decode` takes them; None if missing."""

    pixels: NDArray[np.uint8] | None
    codes: EncodeResult | None

    def __repr__(self) -> str:
        """Return one line: pixels without their values."""
        pixels = "no pixels" if self.pixels is None else f"pixels of shape {self.pixels.shape}"
        return f"<SampleArrays: {pixels}, {'no codes' if self.codes is None else self.codes}>"


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples of one request."""

    meta: SamplesMeta
    samples: tuple[SampleArrays, ...]

    def __repr__(self) -> str:
        """Return one line; `meta` and each of `samples` say more."""
        meta = self.meta
        of = f"class {meta.class_id} ({meta.class_name})" if meta.class_id is not None else "no class"
        size = "x".join(map(str, meta.size.as_tuple()))
        return f"<Samples of {meta.model}: {len(self.samples)} of {of}, seed {meta.seed}, {size}>"


@dataclass(frozen=True)
class SampleFile:
    """Pixels or codes as a file."""

    media_type: str
    data: bytes


SampleFiles = Mapping[str, SampleFile]  # of one sample: "pixels", "codes", or both


def write_arrays(samples: Samples) -> bytes:
    """Return a msgpack map of the description and, under `samples`, of what each sample has."""
    return msgpack.pack(samples.meta.model_dump() | {"samples": [_packed(sample) for sample in samples.samples]})


def read_arrays(data: bytes) -> Samples:
    """Return what `write_arrays` wrote.

    Raises:
        ProblemError: for anything wrong with the bytes.
    """
    fields = msgpack.unpack(data, len(data))
    entries = fields.pop("samples", None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ProblemError("malformed-body", "The body must hold a list of maps named `samples`.")
    return Samples(SamplesMeta.model_validate(fields), tuple(_unpacked(entry) for entry in entries))


def write_files(meta: SamplesMeta, samples: Sequence[SampleFiles], media_type: str) -> bytes:
    """Return a JSON object or a zip of files.

    Args:
        meta: the description.
        samples: the files of each sample.
        media_type: of the body, JSON or ZIP.
    """
    if media_type == JSON:
        entries = [sample_fields(index, files) for index, files in enumerate(samples)]
        return json.dumps(meta.model_dump() | {"samples": entries}, allow_nan=False).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:  # stored, since pictures and clips are compressed already
        archive.writestr(META_MEMBER, meta.model_dump_json(indent=2))
        for index, files in enumerate(samples):
            for part in files.values():
                archive.writestr(f"{index:02d}{SUFFIXES[part.media_type]}", part.data)
    return file.getvalue()


def sample_fields(index: int, files: SampleFiles) -> dict[str, Any]:
    """Return one sample as JSON-ready data: each file as its media type and base64."""
    encoded = {
        name: {"media_type": file.media_type, "data": base64.b64encode(file.data).decode()}
        for name, file in files.items()
    }
    return {"index": index} | encoded


def _packed(sample: SampleArrays) -> dict[str, Any]:
    pixels = {} if sample.pixels is None else {"pixels": pack_tensor(sample.pixels)}
    return pixels | ({} if sample.codes is None else {"codes": msgpack.dump(sample.codes)})


def _unpacked(entry: dict[str, Any]) -> SampleArrays:
    pixels, codes = entry.get("pixels"), entry.get("codes")
    return SampleArrays(
        None if pixels is None else unpack_tensor(pixels, "`pixels`"),
        None if codes is None else read_codes(codes, MSGPACK),
    )
