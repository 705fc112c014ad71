"""Clips whose files call all packets key frames, as fragments without flags and old indexes do."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
import pytest
from media_samples import pattern, video

from media.reader import open_frames
from media.types import MediaOptions

CLIP = pattern(40, 144, 176)
GROUP = 16
RGB = {"cinepak": "rgb24", "qtrle": "rgb24"}
PLAIN = {"b": "4M", "g": str(GROUP)}
X265 = {"x265-params": f"keyint={GROUP}:bframes=0:scenecut=0:log-level=none"}
WINDOW = MediaOptions(start_s=0.9, frames=4)


def called_keys(data: bytes, container: str) -> bytes:
    """Copy a clip with all of its packets called key frames."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.is_keyframe, packet.stream = True, copy
                target.mux_one(packet)
    return buffer.getvalue()


def frames(data: bytes, options: MediaOptions | None = None) -> Iterator[np.ndarray]:
    return iter(open_frames(io.BytesIO(data), None, options))


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx265", "mp4", X265),
        ("libx265", "matroska", X265),
        ("libx264", "mp4", {"x264-params": f"keyint={GROUP}:scenecut=0"}),
        ("mpeg4", "mp4", PLAIN),
        ("mpeg4", "avi", PLAIN),
        ("h263", "mov", PLAIN),
        ("msmpeg4v2", "avi", PLAIN),
        ("msmpeg4", "avi", PLAIN),
        ("libvpx-vp9", "webm", {"deadline": "realtime"} | PLAIN),
        ("mpeg2video", "mov", PLAIN),
        ("flv", "avi", PLAIN),
        ("wmv2", "asf", PLAIN),
        ("cinepak", "avi", PLAIN),
        ("qtrle", "mov", PLAIN),
    ],
)
def test_a_window_begins_at_a_true_key_frame(codec: str, container: str, options: dict[str, str]) -> None:
    data = video(CLIP, codec, container, fps=25, options=options, pixel_format=RGB.get(codec, "yuv420p"))
    expected = list(frames(data, WINDOW))
    assert len(expected) == 4
    assert np.array_equal(list(frames(called_keys(data, container), WINDOW)), expected)
    whole = zip(frames(called_keys(data, container)), frames(data), strict=True)
    assert all(np.array_equal(one, other) for one, other in whole)
