"""The vocabulary of media: options, and descriptions of files and of frames. Plain frozen data, no codecs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from media.errors import MediaError

Fit = Literal["cover", "contain", "stretch"]
Sampling = Literal["first", "uniform", "stride"]

DEFAULT_FPS = 25.0  # of a clip whose file or caller states none
_RATE_TOLERANCE = 0.02


@dataclass(frozen=True)
class MediaOptions:
    """Options that turn a picture or clip into frames.

    Args:
        size: (height, width) of the frames in pixels, or None to keep the source's.
        fit: "cover" fills `size` and crops the middle, "contain" fits inside and pads with black, "stretch" ignores
            the aspect ratio.
        frames: the most frames to keep; None keeps all.
        sampling: "first" keeps the first frames, "stride" every `stride`-th, "uniform" spreads `frames` evenly.
        stride: step of "stride" sampling, frames.
        start_s, end_s: window of a clip, seconds from its first frame, start included and end excluded. A still
            picture has no time: window and sampling do not apply to it.
        animated: read all frames of an animated GIF, PNG, WebP or AVIF instead of its first.

    Raises:
        MediaError: "invalid-options" for a value out of its range.
    """

    size: tuple[int, int] | None = None
    fit: Fit = "cover"
    frames: int | None = None
    sampling: Sampling = "first"
    stride: int = 1
    start_s: float | None = None
    end_s: float | None = None
    animated: bool = False

    def __post_init__(self) -> None:
        faults: dict[str, str] = {}
        if self.size is not None and not (len(self.size) == 2 and all(side >= 1 for side in self.size)):
            faults["size"] = "must be two positive numbers, height and width"
        if self.fit not in get_args(Fit):
            faults["fit"] = f"must be one of {', '.join(get_args(Fit))}"
        if self.sampling not in get_args(Sampling):
            faults["sampling"] = f"must be one of {', '.join(get_args(Sampling))}"
        if self.frames is not None and self.frames < 1:
            faults["frames"] = "must be at least 1"
        if self.stride < 1:
            faults["stride"] = "must be at least 1"
        for name in ("start_s", "end_s"):
            seconds = getattr(self, name)
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                faults[name] = "must be a finite number of seconds, at least 0"
        if self.stride > 1 and self.sampling != "stride":
            faults["stride"] = 'needs sampling="stride"'
        if not faults and self.end_s is not None and self.end_s <= (self.start_s or 0.0):
            faults["end_s"] = "must be later than start_s"
        if faults:
            errors = [{"pointer": f"/{name}", "detail": f"`{name}` {detail}."} for name, detail in faults.items()]
            raise MediaError("invalid-options", " ".join(error["detail"] for error in errors), errors=errors)


@dataclass(frozen=True)
class SampleWindow:
    """The part of a file that a training sample shows; the default is what a caller of the service gets.

    Args:
        crop_position: of the crop of `fit="cover"` along the side that is cut, from 0 (left or top) to 1.
        start_position: of the kept frames between `start_s` and `end_s`, from 0 (the first frames) up to 1, excluded.
        fps: rate of the kept frames, frames per second: the frame nearest to each tick, instead of `sampling`.
            A clip slower than that repeats frames. None keeps the file's rate.

    Raises:
        ValueError: a value is out of its range.
    """

    crop_position: float = 0.5
    start_position: float = 0.0
    fps: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.crop_position <= 1 and 0 <= self.start_position < 1):
            raise ValueError(f"{self} is out of range: 0 <= crop_position <= 1 and 0 <= start_position < 1.")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"{self} is out of range: fps is positive and finite.")


@dataclass(frozen=True)
class SourceInfo:
    """The description of a file.

    Args:
        media_type: media type by its content.
        codec: name of the codec, such as "h264" or "png".
        width, height: size as displayed (rotation applied), pixels.
        frames_in: frames of the file, by its packets; of a still picture 1.
        fps: average frame rate of the file, frames per second; None for a still picture.
        duration_s: duration of the file, seconds; None for a still picture or where nothing states it.
        sampled_pts: time of each kept frame, seconds from the clip's first frame.
    """

    media_type: str
    codec: str
    width: int
    height: int
    frames_in: int
    fps: float | None
    duration_s: float | None
    sampled_pts: list[float]

    @property
    def kept_fps(self) -> float | None:
        """Rate of the kept frames, frames per second: the file's corrected for sampling; None for a still picture."""
        times = self.sampled_pts
        if len(times) > 1 and times[-1] > times[0]:
            return nearest_rate((len(times) - 1) / (times[-1] - times[0]), self.fps)
        return self.fps


@dataclass(frozen=True)
class Preprocess:
    """The steps applied to every frame, in this order, enough to invert them.

    Args:
        resize: (height, width) of the resized picture, None if it kept its size.
        crop: (top, left, height, width) of the part of the resized picture that was kept, None for all.
        pad: (top, left, height, width): position of the resized picture inside the black frame, and
            the size of that frame; None for no padding.
    """

    resize: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    pad: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Frames:
    """Decoded media.

    Args:
        pixels: uint8 RGB (T, H, W, 3).
        source: what the file was.
        preprocess: what was done to each frame.
        is_video: whether this is a clip (a video, or an animation read as one), even if one frame was kept.
        seconds: that decoding took, and the wait for a worker before it; 0 where nobody measured them.
    """

    pixels: NDArray[np.uint8]
    source: SourceInfo
    preprocess: Preprocess
    is_video: bool
    seconds: float = 0.0


def nearest_rate(measured: float, nominal: float | None) -> float:
    """Return the nominal frame rate if only rounded time stamps differ from it, else the measured one."""
    if nominal is not None and abs(measured - nominal) < _RATE_TOLERANCE * nominal:
        return nominal
    return measured
