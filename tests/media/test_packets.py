"""Clips with packets and frames that hold something else than a picture alone."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from media_samples import pattern, picture, psnr, video
from numpy.typing import NDArray
from PIL import Image

from media.faststart import faststart
from media.frame_reader import FrameReader
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream

CLIP = pattern(6, 48, 64)


def opened(data: bytes) -> tuple[FrameReader, NDArray[np.uint8]]:
    reader = open_frames(io.BytesIO(data), MediaLimits())
    return reader, np.stack(list(reader))


def with_empty_sample(mp4: bytes, place: int) -> bytes:
    """Return the mp4 with a sample whose bytes belong to the one before."""
    sizes = mp4.index(b"stsz") + 16
    before, size = struct.unpack_from(">2I", mp4, sizes + 4 * (place - 1))
    return mp4[: sizes + 4 * (place - 1)] + struct.pack(">2I", before + size, 0) + mp4[sizes + 4 * (place + 1) :]


@pytest.mark.parametrize("place", [3, 5])
def test_a_packet_without_a_picture_shows_the_last_one_for_longer(place: int) -> None:
    data = with_empty_sample(video(CLIP, "mjpeg", options={"q": "2"}, pixel_format="yuvj420p"), place)
    reader, frames = opened(data)
    kept = [index for index in range(len(CLIP)) if index != place]
    assert psnr(frames, CLIP[kept]) > 30
    assert reader.info().sampled_pts == pytest.approx([index / 24 for index in kept])
    assert reader.info().duration_s == pytest.approx(len(CLIP) / 24)
    file = io.BytesIO(data)
    arriving = io.BytesIO(b"".join(piece for span in faststart(file) for piece in span.pieces(file, 1 << 16)))
    assert np.array_equal(np.stack(list(ClipStream(arriving.read, "video/mp4", MediaOptions(), None))), frames)


def with_exif(orientation: int) -> bytes:
    """A clip of photographs, each with the EXIF of a camera."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "camera", orientation
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as file:
        stream = file.add_stream("mjpeg", rate=24)
        stream.width, stream.height, stream.pix_fmt = CLIP.shape[2], CLIP.shape[1], "yuvj420p"
        for number, pixels in enumerate(CLIP):
            packet = av.Packet(picture(pixels, "JPEG", quality=95, exif=exif))
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 24), number, number
            packet.is_keyframe = True
            file.mux_one(packet)
    return buffer.getvalue()


def test_frames_may_have_the_exif_of_a_camera() -> None:
    assert psnr(opened(with_exif(1))[1], CLIP) > 30
    assert psnr(opened(with_exif(6))[1], np.rot90(CLIP, -1, (1, 2))) > 30
