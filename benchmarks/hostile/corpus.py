"""A seeded corpus of hostile requests: damaged media with options, and damaged bodies of every form."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.hostile.bombs import bombs
from benchmarks.hostile.mutations import MUTATIONS, mutate
from media.identify import IMAGE_OUTPUTS, MEDIA_TYPES, VIDEO_OUTPUTS, sniff
from media.write import encode_image, encode_video
from service.formats.codes import FORMATS, write_codes
from service.formats.media_types import JSON, MSGPACK, OCTET_STREAM
from service.formats.msgpack import pack
from service.formats.result import EncodeMeta, EncodeResult
from service.formats.tensors import pack_tensor

FIXTURES = Path(__file__).parents[2] / "tests/media/cases"
SOURCE_BYTES = 100_000  # larger files only slow a run down
PILLOW = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")
BOUNDARY = "sep"
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"animated": "true"},
    {"animated": "true", "size": "64", "frames": "9", "sampling": "uniform"},
    {"size": "1x1"},
    {"size": "64x48", "fit": "contain"},
    {"frames": "1"},
    {"frames": "5", "sampling": "stride", "stride": "7"},
    {"start_s": "0.1", "end_s": "0.3"},
    {"start_s": "50"},
)
PATHS = ("/encode", "/reconstruct")


@dataclass(frozen=True)
class Case:
    """One hostile request.

    Args:
        index: its place in the corpus, which with the seed decides everything else.
        kind: mutation, or "bomb".
        source: file or body that was damaged, or name of the bomb.
        data: the body.
        content_type: its label; None for none.
        path: of the route.
        query: options in text.
    """

    index: int
    kind: str
    source: str
    data: bytes
    content_type: str | None
    path: str
    query: dict[str, str]


class MediaCorpus:
    """Bombs, then mutations of real files, each made when it is asked for.

    Args:
        seed: decides everything.
        folders: of further files to damage.
        size: of the frames, where the options name none; None for that of the file.
    """

    def __init__(self, seed: int, folders: tuple[Path, ...] = (), size: str | None = None) -> None:
        self._seed = seed
        self._default = {} if size is None else {"size": size}
        self._sources = [*_made(), *(source for folder in (FIXTURES, *folders) for source in _read(folder))]
        self._bytes = [data for _, data in self._sources]

    @cached_property
    def _bombs(self) -> list[tuple[str, bytes]]:
        return list(bombs())

    def case(self, index: int) -> Case:
        """Return one request."""
        rng = random.Random(f"{self._seed}:{index}")
        if index < len(self._bombs):
            kind, (source, data) = "bomb", self._bombs[index]
        else:
            kind = list(MUTATIONS)[index % len(MUTATIONS)]
            source, whole = rng.choice(self._sources)
            data = mutate(rng, kind, whole, self._bytes)
        label = rng.choice((None, sniff(data), sniff(data), rng.choice(MEDIA_TYPES)))
        return Case(index, kind, source, data, label, rng.choice(PATHS), self._default | rng.choice(OPTIONS))


class FormCorpus:
    """Mutations of bodies: tokens in every form, pixels and files in maps and multipart, and generate requests.

    Args:
        seed: decides everything.
        bundle: hash of the bundle that tokens name, so that undamaged ones are accepted.
    """

    def __init__(self, seed: int, bundle: str) -> None:
        self._seed = seed
        self._sources = list(_bodies(bundle))
        self._bytes = [data for _, _, data in self._sources]

    def case(self, index: int) -> Case:
        """Return one request."""
        rng = random.Random(f"form:{self._seed}:{index}")
        kind = list(MUTATIONS)[index % len(MUTATIONS)]
        path, content_type, whole = rng.choice(self._sources)
        data = mutate(rng, kind, whole, self._bytes)
        label = rng.choice((content_type, content_type, content_type, OCTET_STREAM))
        return Case(index, kind, f"{path} {content_type.partition(';')[0]}", data, label, path, {})


def _read(folder: Path) -> list[tuple[str, bytes]]:
    files = ((path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file())
    return [(name, data) for name, data in files if 0 < len(data) <= SOURCE_BYTES]


def _pixels(frames: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    t, y, x = np.mgrid[:frames, :48, :64]
    return np.stack([4 * x + 9 * t, 5 * y, 2 * (x + y)], -1).astype(np.uint8)


@cache
def _made() -> list[tuple[str, bytes]]:
    """Return a picture and a clip in each format that can be written."""
    clip = _pixels(5)
    files = [(name, encode_image(clip[:1], name)) for name in IMAGE_OUTPUTS]
    files += [(name, encode_video(clip, name, 10)) for name in VIDEO_OUTPUTS]
    pictures = [Image.fromarray(frame) for frame in clip]
    for form in PILLOW:
        for extra in ({}, {"save_all": True, "append_images": pictures[1:]}) if form != "JPEG" else ({},):
            if form == "BMP" and extra:
                continue
            buffer = io.BytesIO()
            pictures[0].save(buffer, form, **extra)
            files.append((f"{form.lower()}{' animated' if extra else ''}", buffer.getvalue()))
    buffer = io.BytesIO()
    pictures[0].save(buffer, "JPEG", progressive=True)
    return [*files, ("jpeg progressive", buffer.getvalue())]


def _bodies(bundle: str) -> list[tuple[str, str, bytes]]:
    """Return whole bodies as (path, content type, bytes)."""
    result = EncodeResult(EncodeMeta(bundle=bundle), np.arange(16, dtype="<u2").reshape(1, 4, 4))
    png = encode_image(_pixels(1), "image/png")
    array = pack({"array": pack_tensor(_pixels(1))})
    form = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\nContent-Type: {label}\r\n\r\n{text}\r\n'
        for name, label, text in (("options", JSON, '{"size": "32"}'), ("media", "image/png", "\0FILE\0"))
    )
    multipart = f"multipart/form-data; boundary={BOUNDARY}"
    whole = f"{form}--{BOUNDARY}--\r\n".encode()
    bodies = [("/decode", name, write_codes(result, name)) for name in FORMATS]
    bodies += [
        ("/encode", MSGPACK, array),
        ("/reconstruct", MSGPACK, array),
        ("/encode", MSGPACK, pack({"media": png, "options": {"size": "32"}})),
        ("/encode", JSON, json.dumps({"media": "iVBORw0KGgo=", "options": {"size": "32"}}).encode()),
        ("/encode", multipart, whole.replace(b"\0FILE\0", png)),
        (
            "/decode",
            multipart,
            whole.replace(b'"media"', b'"tokens"').replace(b"\0FILE\0", write_codes(result, MSGPACK)),
        ),
        ("/generate", JSON, b'{"class": 1, "n": 1, "seed": 3, "temperature": 0.5}'),
        ("/images/generations", JSON, b'{"prompt": "1", "n": 1, "size": "auto", "seed": 2}'),
    ]
    return bodies
