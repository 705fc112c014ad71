"""The time of every frame of a clip, from time stamps that may be missing, out of order or of undecodable packets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np

from media.types import DEFAULT_FPS

MAX_REORDERED_FRAMES = 16  # the most that a decoder of H.264 or HEVC holds back
# Stamps that go back further, and by more frames than are reordered, start anew: transport streams were joined.
_RESET_S = 0.5
_JUMP_S = 10.0  # ahead, likewise; as FFmpeg's own command


@dataclass(frozen=True)
class Packet:
    """One packet of the video stream.

    Args:
        pts: time stamp, units of the stream; None if the file gives none.
        is_key: decoding can begin here.
        is_shown: a frame comes of it that is meant to be seen.
        duration: units of the stream; 0 if the file gives none.
        recovers_after: reference frames; only then a decoder that begins here shows whole frames.
        leads: its frame can be decoded though it is shown before the first key frame.
    """

    pts: int | None
    is_key: bool
    is_shown: bool
    duration: int
    recovers_after: int = 0
    leads: bool = False


@dataclass(frozen=True)
class Timeline:
    """The frames of a clip that can be decoded, in the order in which they are shown.

    Args:
        marks: ascending; the time stamp by which each decoded frame is recognised, or its number if `by_number`.
        times: seconds from the first frame, ascending.
        by_number: frames are recognised by their number in a decode from the first packet, not by their time stamp.
        is_complete: False if the timeline ends before the clip does.
    """

    marks: Sequence[int]
    times: list[float]
    by_number: bool = False
    is_complete: bool = True


def jumps(packets: Sequence[Packet], base: Fraction) -> bool:
    """Return whether stamps of a clip are far ahead of those before, as where transport streams were joined.

    Args:
        packets: in file order.
        base: seconds in a unit of the time stamps.
    """
    known = sorted(packet.pts for packet in packets if packet.pts is not None)
    return any(later - stamp > _JUMP_S / base for stamp, later in pairwise(known))


def from_packets(packets: Sequence[Packet], base: Fraction, reorders: bool) -> Timeline | None:
    """Read the times of a clip off its packets, which is right for nearly all files.

    Args:
        packets: in file order.
        base: seconds in a unit of the time stamps.
        reorders: the decoder may put frames into another order.

    Returns:
        None if only decoding shows which frames there are, and when: stamps are missing or repeated, or start anew,
        they ascend through a stream whose frames are stored in another order than they are shown, so that they cannot
        be theirs, or the first frames of a stream that was cut do not come.
    """
    first_key = next((index for index, packet in enumerate(packets) if packet.is_key), None)
    if first_key is None or packets[first_key].recovers_after:
        return None
    begin = packets[first_key].pts
    shown = [packet for packet in packets[first_key:] if packet.is_shown]
    known = [packet.pts for packet in shown if packet.pts is not None]
    if begin is None or len(known) < len(shown):
        return None
    reset = max(_RESET_S / base, MAX_REORDERED_FRAMES * max(packet.duration for packet in packets))
    if any(highest - stamp > reset for highest, stamp in zip(accumulate(known, max), known, strict=True)):
        return None
    # Other frames that are shown before the first key frame refer to ones that the file does not hold.
    marks = sorted(stamp for stamp, packet in zip(known, shown, strict=True) if stamp >= begin or packet.leads)
    if len(set(known)) < len(known) or (reorders and len(known) > 1 and known == marks):
        return None
    return Timeline(marks, [float((mark - marks[0]) * base) for mark in marks])


def may_reorder(packets: Sequence[Packet], reorders: bool) -> bool:
    """Return whether a frame may be shown before two that are stored before it; arguments as `from_packets`."""
    last = second = -math.inf
    ascends = True
    for packet in packets:
        if packet.pts is None or packet.pts < second:
            return True
        ascends = ascends and packet.pts > last
        last, second = max(last, packet.pts), max(second, min(last, packet.pts))
    return reorders and ascends


def from_frames(
    stamps: Sequence[int | None], base: Fraction, fps: float | None, is_complete: bool, is_joined: bool = False
) -> Timeline:
    """Read the times of a clip off its decoded frames.

    Args:
        stamps: time stamp of each frame in the order in which the decoder gives them, which is that of showing them;
            None where it has none.
        base: seconds in a unit of the time stamps.
        fps: frames per second, for frames without a neighbour that has a stamp; None if unknown.
        is_complete: the clip has no further frames.
        is_joined: stamps that are far ahead of those before are of another recording, which was joined to the first.
    """
    numbers = np.arange(len(stamps))
    places = [number for number, stamp in enumerate(stamps) if stamp is not None]
    step = 1 / (fps or DEFAULT_FPS)
    known = np.sort(_joined([float(stamp * base) for stamp in stamps if stamp is not None], step, is_joined))
    if len(set(known)) > 1:  # one for all says nothing
        times = np.interp(numbers, places, known)
        times += step * (np.minimum(numbers - places[0], 0) + np.maximum(numbers - places[-1], 0))
    else:
        times = numbers * step
    # Rounded, so that the difference of 0.3 and 0.1 is 0.2: windows begin and end there.
    return Timeline(range(len(stamps)), (times - times[0]).round(9).tolist(), by_number=True, is_complete=is_complete)


def _joined(seconds: Sequence[float], step: float, is_joined: bool) -> list[float]:
    """Move the times behind each start of new ones so that they go on a step after the last."""
    joined: list[float] = []
    highest, shift = seconds[0] if seconds else 0.0, 0.0
    for second in seconds:
        if second + shift < highest - _RESET_S or (is_joined and second + shift > highest + _JUMP_S):
            shift = highest + step - second
        joined.append(second + shift)
        highest = max(highest, joined[-1])
    return joined


def duration(packets: Sequence[Packet], base: Fraction, timeline: Timeline, fps: float | None) -> float:
    """Return the seconds from the first frame to the end of the last.

    Args:
        packets: in file order.
        base: seconds in a unit of the time stamps.
        timeline: of the same clip.
        fps: frames per second, for frames that state no duration; None if unknown.
    """
    step = 1 / (fps or DEFAULT_FPS)
    timed = [
        (packet.pts, packet.pts + (packet.duration or step / base))
        for packet in packets
        if packet.is_shown and packet.pts is not None
    ]
    if not timed:
        return timeline.times[-1] + step
    if timeline.by_number and timeline.is_complete:
        start, end = max(timed)
        return timeline.times[-1] + float((end - start) * base)
    begin = min(start for start, _ in timed) if timeline.by_number else timeline.marks[0]
    return max(timeline.times[-1], float((max(end for _, end in timed) - begin) * base))
