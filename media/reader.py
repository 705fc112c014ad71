"""The reader of every kind of media: `open_frames` reads pictures through Pillow and videos through FFmpeg."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from media.animation import AnimationReader
from media.frame_reader import FrameReader
from media.identify import HEAD_BYTES, IMAGE_TYPES, identify
from media.images import StillReader
from media.types import MediaOptions, SampleWindow
from media.video import ClipReader

if TYPE_CHECKING:
    from media.limits import MediaLimits


def open_frames(
    file: BinaryIO,
    limits: MediaLimits | None,
    options: MediaOptions | None = None,
    declared: str | None = None,
    window: SampleWindow | None = None,
) -> FrameReader:
    """Open media for reading frame by frame in constant memory.

    Args:
        file: an open, seekable binary file at any position; the caller closes it after the last frame.
        limits: bounds that hold while reading; None for a trusted file of the user's own.
        options: size, window and sampling; None keeps everything as it is.
        declared: media type that the sender gave, None if it gave none.
        window: position of the crop and of the kept frames, and their rate; None takes the
            middle, from the start, as recorded.

    Returns:
        An iterable of uint8 RGB frames (H, W, 3) that also describes the file.

    Raises:
        MediaError: the file is none of the supported types, is damaged, or breaks a limit. Iterating raises it too.
    """
    options, window = options or MediaOptions(), window or SampleWindow()
    file.seek(0)
    media_type = identify(file.read(HEAD_BYTES), declared, trusted=limits is None)
    file.seek(0)
    if media_type not in IMAGE_TYPES:
        return ClipReader(file, media_type, options, limits, window)
    if options.animated:
        animation = AnimationReader(file, media_type, options, limits, window)
        if animation.is_video:
            return animation
        file.seek(0)
    return StillReader(file, media_type, options, limits, window)
