"""Synthetic data sets for `benchmarks.bulk`: tars of JPEGs of ImageNet's sizes, and of short H.264 clips."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from media.kinds import Kind
from media.write import encode_video
from model.atomic_write import replacing

PHOTO = Path(__file__).parents[1] / "docs" / "samples" / "igloo.jpg"
SIZES = ((375, 500), (375, 500), (375, 500), (500, 375), (333, 500))  # as in ImageNet, most are landscapes
NOISE = 14  # grey levels; a photograph of ImageNet has 110 KB
SCALED_SIDE = 640
CLIP_FRAMES, CLIP_SIDE = 17, 256
DISTINCT: dict[Kind, int] = {"images": 512, "clips": 64}
TAR_ITEMS: dict[Kind, int] = {"images": 512, "clips": 128}
SUFFIXES: dict[Kind, str] = {"images": ".jpg", "clips": ".mp4"}


def write_source(folder: Path, kind: Kind, count: int) -> None:
    """Write tars of pictures or clips, some of which are equal; those of an earlier run stay.

    Args:
        folder: of the tars, which is made where it is missing.
        kind: of the items.
        count: of the items.
    """
    folder.mkdir(parents=True, exist_ok=True)
    each = TAR_ITEMS[kind]
    missing = {folder / f"{kind}-{first:08d}-{count}.tar": first for first in range(0, count, each)}
    missing = {path: first for path, first in missing.items() if not path.exists()}
    if not missing:
        return
    with ThreadPoolExecutor() as threads:
        files = list(threads.map(photo if kind == "images" else clip, range(min(count, DISTINCT[kind]))))

        def write(path: Path, first: int) -> None:
            items = {index: files[index % len(files)] for index in range(first, min(first + each, count))}
            with replacing(path) as fresh:
                _write_tar(fresh, items, SUFFIXES[kind])

        list(threads.map(write, missing, missing.values()))


def _write_tar(path: Path, items: dict[int, bytes], suffix: str) -> None:
    with tarfile.open(path, "w") as tar:
        for index, data in items.items():
            for name, content in ((suffix, data), (".cls", str(index % 1000).encode())):
                member = tarfile.TarInfo(f"{index:08d}{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def photo(seed: int) -> bytes:
    """Return a JPEG of the size of ImageNet's, of a photograph with noise."""
    height, width = SIZES[seed % len(SIZES)]
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, SCALED_SIDE - height), rng.integers(0, SCALED_SIDE - width)
    pixels = scaled_photo()[top : top + height, left : left + width].astype(np.int16)
    noisy = pixels + rng.integers(-NOISE, NOISE + 1, (height, width, 1), np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def clip(seed: int) -> bytes:
    """Return an H.264 clip of a photograph that moves."""
    top, left = np.random.default_rng(seed).integers(0, SCALED_SIDE - CLIP_SIDE - 2 * CLIP_FRAMES, 2).tolist()
    windows = [(top + 2 * frame, left + frame) for frame in range(CLIP_FRAMES)]
    frames = [scaled_photo()[above : above + CLIP_SIDE, before : before + CLIP_SIDE] for above, before in windows]
    return encode_video(np.stack(frames), "video/mp4", 25.0)


@lru_cache(maxsize=1)
def scaled_photo() -> NDArray[np.uint8]:
    with Image.open(PHOTO) as image:
        return np.asarray(image.convert("RGB").resize((SCALED_SIDE, SCALED_SIDE)))
