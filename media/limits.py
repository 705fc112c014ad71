"""The limits of hostile media as checks: each names its limit, what broke it, and what the caller can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from media.errors import MediaError

MIB = 2**20


def _limit(description: str) -> dict[str, Any]:
    """Return the metadata of a limit, which the service's settings check and show."""
    return {"gt": 0, "description": description}


@dataclass(frozen=True)
class MediaLimits:
    """The bounds of one file; None in place of it means a trusted file. The service adds limits of requests."""

    image_bytes: int = field(default=20 * MIB, metadata=_limit("body of an image request, bytes"))
    video_bytes: int = field(default=64 * MIB, metadata=_limit("body of a video request, bytes"))
    image_pixels: int = field(default=40_000_000, metadata=_limit("pixels of a still picture"))
    image_side: int = field(default=16_384, metadata=_limit("longer side of a still picture, pixels"))
    video_pixels: int = field(default=4096 * 2176, metadata=_limit("pixels of a video frame"))
    video_side: int = field(default=8_192, metadata=_limit("longer side of a video frame, pixels"))
    demuxed_packets: int = field(default=108_000, metadata=_limit("packets read from a container"))
    decoded_frames: int = field(default=1_200, metadata=_limit("frames decoded from one file"))
    animation_frames: int = field(default=256, metadata=_limit("frames decoded from an animated picture"))
    animation_pixels: int = field(
        default=1_500_000_000 // 256, metadata=_limit("pixels of a frame of an animated picture: its share of the next")
    )
    decoded_pixels: int = field(default=1_500_000_000, metadata=_limit("pixels decoded from one file, all frames"))
    kept_frames: int = field(default=129, metadata=_limit("frames of one request after sampling"))
    kept_pixels: int = field(default=2048 * 2048, metadata=_limit("pixels of one frame that goes to the model"))
    clip_pixels: int = field(default=2**26, metadata=_limit("pixels of one request after resizing, all frames"))
    duration_seconds: float = field(default=120.0, metadata=_limit("duration of a clip, or of its window, seconds"))
    streams: int = field(default=8, metadata=_limit("streams of a container"))
    stream_frames: int = field(default=2**22, metadata=_limit("frames of one stream"))
    decode_seconds: float = field(default=10.0, metadata=_limit("wall and CPU time to decode one file, seconds"))


def check_bytes(limits: MediaLimits, size: int, is_video: bool) -> None:
    """Refuse a body of `size` bytes that is over the limit of its kind with "body-too-large"."""
    limit = limits.video_bytes if is_video else limits.image_bytes
    if size > limit:
        kind = "A video" if is_video else "A picture"
        raise MediaError(
            "body-too-large",
            f"{kind} may have {limit} bytes; this one has {size}. Compress it, or send less of it.",
            limit=limit,
            actual=size,
        )


def check_picture(limits: MediaLimits | None, height: int, width: int, is_video: bool) -> None:
    """Refuse a picture or frame of (height, width) pixels before it is decoded with "too-many-pixels"."""
    if limits is None:
        return
    side_limit = limits.video_side if is_video else limits.image_side
    pixel_limit = limits.video_pixels if is_video else limits.image_pixels
    what = "video frame" if is_video else "picture"
    if max(height, width) > side_limit:
        raise MediaError(
            "too-many-pixels",
            f"The longer side of a {what} may have {side_limit} pixels; this one has {max(height, width)}.",
            limit=side_limit,
            actual=max(height, width),
        )
    if height * width > pixel_limit:
        raise MediaError(
            "too-many-pixels",
            f"A {what} may have {pixel_limit} pixels; this one has {height}x{width} = {height * width}.",
            limit=pixel_limit,
            actual=height * width,
        )


def check_canvas(limits: MediaLimits | None, height: int, width: int) -> None:
    """Refuse an animated picture whose frames have (height, width) pixels, which each of them costs."""
    if limits is not None and height * width > limits.animation_pixels:
        raise MediaError(
            "too-many-pixels",
            f"A frame of an animated picture may have {limits.animation_pixels} pixels; this one has "
            f"{height}x{width} = {height * width}. Leave out `animated` for its first frame, or send a smaller one.",
            limit=limits.animation_pixels,
            actual=height * width,
        )


def check_decoded(limits: MediaLimits | None, frames: int, frame_pixels: int, is_video: bool) -> None:
    """Refuse a clip whose decoding takes more than `frames` frames of `frame_pixels` pixels allow.

    Raises:
        MediaError: "too-many-frames" or "decode-budget".
    """
    if limits is None:
        return
    frame_limit = limits.decoded_frames if is_video else limits.animation_frames
    if frames > frame_limit:
        way = (
            "choose a shorter window with `start_s` and `end_s`, or"
            if is_video
            else "ask for fewer with `frames`, leave out `animated`, or"
        )
        raise MediaError(
            "too-many-frames",
            f"At most {frame_limit} frames are decoded from one file; {way} send a shorter clip.",
            limit=frame_limit,
            actual=frames,
        )
    if frames * frame_pixels > limits.decoded_pixels:
        raise MediaError(
            "decode-budget",
            f"At most {limits.decoded_pixels} pixels are decoded from one file, all frames together; "
            "send a shorter or smaller clip.",
            limit=limits.decoded_pixels,
            actual=frames * frame_pixels,
        )


def check_kept(limits: MediaLimits | None, frames: int, frame_pixels: int) -> None:
    """Refuse a request that would keep more frames, or more pixels in all, than one request may.

    Raises:
        MediaError: "too-many-frames" or "too-many-pixels".
    """
    if limits is None:
        return
    if frames > limits.kept_frames:
        raise MediaError(
            "too-many-frames",
            f"One request may keep {limits.kept_frames} frames; this one keeps {frames}. Ask for fewer with `frames`, "
            "for a part with `start_s` and `end_s`, or for every n-th frame with `sampling=stride` and `stride`.",
            limit=limits.kept_frames,
            actual=frames,
        )
    if frames * frame_pixels > limits.clip_pixels:
        raise MediaError(
            "too-many-pixels",
            f"One request may keep {limits.clip_pixels} pixels, all frames together; this one keeps "
            f"{frames} frames of {frame_pixels}. Ask for a smaller `size` or for fewer `frames`.",
            limit=limits.clip_pixels,
            actual=frames * frame_pixels,
        )


def check_duration(limits: MediaLimits | None, seconds: float | None) -> None:
    """Refuse a clip or window longer than `limits.duration_seconds` with "too-long"."""
    if limits is not None and seconds is not None and seconds > limits.duration_seconds:
        raise MediaError(
            "too-long",
            f"A clip may last {limits.duration_seconds:g} s; this one lasts {seconds:.1f} s. "
            "Ask for a part with `start_s` and `end_s`.",
            limit=limits.duration_seconds,
            actual=seconds,
        )
