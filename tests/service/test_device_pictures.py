"""Pictures that the device resizes have the pixels of `media`, bit for bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from media.images import StillReader
from media.reader import open_frames
from media.types import MediaOptions
from service.engine.pictures import DevicePixels, SourcePicture, pack_pictures, resize_packed
from service.engine.transfers import Transfers

TRANSFERS = Transfers(torch.device("cpu"))


def jpeg(height: int, width: int, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def reader(data: bytes, options: MediaOptions) -> StillReader:
    found = open_frames(io.BytesIO(data), None, options)
    assert isinstance(found, StillReader)
    return found


sides = st.integers(9, 150)
targets = st.tuples(st.integers(8, 48), st.integers(8, 48))


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=3), targets, st.sampled_from(["cover", "stretch"]))
@settings(max_examples=20, deadline=None)
def test_a_batch_of_many_sizes_is_what_media_reads(sizes: list[tuple[int, int]], target: Any, fit: Any) -> None:
    options = MediaOptions(size=target, fit=fit)
    files = [jpeg(*size) for size in sizes]
    decoded = [reader(data, options).read_source() for data in files]
    wanted = [next(iter(reader(data, options))) for data in files]
    pictures = [SourcePicture(pixels, resampling) for pixels, resampling in decoded if resampling is not None]
    if pictures:
        packed = pack_pictures(pictures, TRANSFERS)
        batch = resize_packed(packed, TRANSFERS.upload(packed.memory))
        arrays = [np.array(one.pixels) for one in pictures]
        memory = torch.from_numpy(np.concatenate([pixels.ravel() for pixels in arrays]))
        starts = np.cumsum([0, *(pixels.size for pixels in arrays)]).tolist()
        held = [
            one._replace(pixels=DevicePixels(memory, start, pixels.shape))
            for one, start, pixels in zip(pictures, starts, arrays, strict=False)
        ]
        packed = pack_pictures(held, TRANSFERS)
        assert torch.equal(resize_packed(packed, TRANSFERS.upload(packed.memory)), batch)
        kept = [one for one, (_, resampling) in zip(wanted, decoded, strict=True) if resampling is not None]
        assert np.array_equal(batch[:, 0].numpy(), np.stack(kept))
    for one, (pixels, resampling) in zip(wanted, decoded, strict=True):
        assert resampling is not None or np.array_equal(pixels, one)


@pytest.mark.parametrize(
    ("data", "is_left"),
    [
        (jpeg(60, 80), True),
        (jpeg(60, 80, "L"), True),
        (jpeg(60, 80, "CMYK"), False),
        (jpeg(60, 80, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"), False),
    ],
    ids=["plain", "grey", "cmyk", "turned"],
)
def test_what_is_more_than_a_resampling_is_done_by_media(data: bytes, is_left: bool) -> None:
    pixels, resampling = reader(data, MediaOptions(size=(32, 32))).read_source()
    assert (resampling is not None) == is_left
    assert pixels.shape == ((60, 80, 3) if is_left else (32, 32, 3))
