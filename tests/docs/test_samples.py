"""The sample media are what their README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from media.reader import open_frames

SAMPLES = Path(__file__).parents[2] / "docs/samples"


def read(name: str) -> NDArray[np.uint8]:
    with (SAMPLES / name).open("rb") as file:
        return np.stack(list(open_frames(file, None)))


def test_the_video_of_a_phone_shows_the_flight_in_its_colours() -> None:
    phone, flight = read("phone.mov"), read("flight.mp4")
    assert phone.shape == (24, 128, 160, 3)  # stored as 160x128
    difference = np.abs(phone.astype(int) - flight[:24])
    assert difference.mean() < 6  # HLG as it is differs by 15, a mirrored picture by more
