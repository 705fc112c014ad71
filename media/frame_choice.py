"""The choice of which frames to keep, by their times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from media.errors import MediaError
from media.identify import VIDEO_TYPES
from media.spread import spread
from media.types import MediaOptions, SampleWindow

_ROUNDED_S = 0.001  # Matroska's unit of time: where a tick is half way between two frames, rounding must not decide


def choose_frames(times: Sequence[float], options: MediaOptions, window: SampleWindow) -> list[int]:
    """Choose the frames to keep.

    Args:
        times: ascending times of all frames, seconds from the first one.
        options: window and sampling.
        window: position of the kept frames, and their rate.

    Returns:
        Ascending indices into `times`, at least one; the same one several times where the rate asks for it.

    Raises:
        MediaError: "invalid-options" if no frame is in the window.
    """
    start = 0.0 if options.start_s is None else options.start_s
    end = float("inf") if options.end_s is None else options.end_s
    inside = [index for index, time in enumerate(times) if start <= time < end]
    if not inside:
        raise MediaError(
            "invalid-options",
            f"No frame is between start_s and end_s; the last frame is at {times[-1]:.3f} s.",
            errors=[{"pointer": "/start_s", "detail": "No frame is at or after this time and before end_s."}],
        )
    if options.sampling == "stride":
        inside = inside[:: options.stride]
    if window.fps is not None:
        return [inside[index] for index in _at_rate([times[index] for index in inside], options.frames, window)]
    wanted = len(inside) if options.frames is None else min(options.frames, len(inside))
    if options.sampling == "uniform" and wanted < len(inside):
        return [inside[place] for place in spread(len(inside), wanted)]
    first = int(window.start_position * (len(inside) - wanted + 1))
    return inside[first : first + wanted]


def check_streams(media_type: str, options: MediaOptions) -> None:
    """Check that a file can be decoded while it arrives.

    Raises:
        MediaError: "unsupported-media-type" for a picture, "invalid-options" for what only a whole file allows.
    """
    if media_type not in VIDEO_TYPES:
        raise MediaError(
            "unsupported-media-type", f"A stream is one of {', '.join(VIDEO_TYPES)}, not {media_type}. Send it whole."
        )
    refused = {"sampling": options.sampling == "uniform", "animated": options.animated}
    if errors := [
        {"pointer": f"/{name}", "detail": "Only a whole file allows it."} for name, given in refused.items() if given
    ]:
        names = " and ".join(name for name, given in refused.items() if given)
        raise MediaError("invalid-options", f"A stream does not take {names}; send the file whole.", errors=errors)


def _at_rate(times: Sequence[float], frames: int | None, window: SampleWindow) -> list[int]:
    """Return the frames nearest to the ticks of a clock; of two equally near ones the earlier."""
    assert window.fps is not None
    span, tick = times[-1] - times[0], 1 / window.fps
    gap = span / max(1, len(times) - 1)
    slack = 0.0 if frames is None else span + gap - (frames - 1) * tick
    first = bisect_right(times, times[0] + window.start_position * max(0.0, slack)) - 1
    # The last frame is on the screen for a while; rounded times must not decide whether another tick fits.
    end = times[-1] + max(gap / 2, gap - tick / 2)
    fitting = int((end - times[first]) / tick) + 1
    ticks = times[first] + np.arange(fitting if frames is None else min(frames, fitting)) / window.fps
    known = np.asarray(times)
    after = np.searchsorted(known, ticks).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    tie = np.minimum(_ROUNDED_S, (known[after] - known[before]) / 4)
    return np.where(np.abs(known[after] - ticks) + tie < np.abs(known[before] - ticks), after, before).tolist()
