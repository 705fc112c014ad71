"""Pictures that decoders and browsers used to disagree about: each is shown as browsers show it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from media_samples import animation, pattern
from numpy.typing import NDArray

from service.media.reader import open_frames
from service.media.source import FrameReader
from service.media.types import MediaOptions
from service.settings import Limits

LIMITS = Limits()
ANIMATED = MediaOptions(animated=True)


def opened(data: bytes, options: MediaOptions | None = None) -> FrameReader:
    return open_frames(io.BytesIO(data), LIMITS, options)


def read(data: bytes, options: MediaOptions | None = None) -> NDArray[np.uint8]:
    return np.stack(list(opened(data, options)))


@pytest.mark.parametrize(("kind", "milliseconds", "fps"), [("GIF", 10, 10), ("GIF", 20, 50), ("WEBP", 10, 10)])
def test_frames_that_claim_to_be_too_short_last_a_tenth_of_a_second(kind: str, milliseconds: int, fps: int) -> None:
    moving = opened(animation(pattern(3, 16, 16), kind, milliseconds), ANIMATED)
    assert len(list(moving)) == 3
    assert moving.info().fps == pytest.approx(fps)
