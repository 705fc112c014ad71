"""Decoded frames of a clip as the pixels that are shown: upright, square, in sRGB and cut to size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

from media import details, tone_mapping
from media.colour import FULL, frame_rgb, tags_of
from media.limits import check_picture
from media.orientation import Orientation, from_matrix
from media.presentation import Presentation
from media.resize import Plan, plan
from media.types import MediaOptions

if TYPE_CHECKING:
    from media.limits import MediaLimits

# PyAV raises for frames with kinds of side data that it does not know yet: EXIF, or the view of a stereo clip.
setattr(SideDataType, "_missing_", lambda _: SideDataType.VIDEO_HINT)  # noqa: B010


class FrameConversion:
    """The conversion of one clip's frames, which the first of them plans.

    Args:
        options: size and fit.
        limits: bounds, None for trusted files.
        stated: how the container says that they are to be shown.
        crop_position: of the crop, see `SampleWindow`.

    Attributes:
        plan, details: of the first frame, None before it.
    """

    def __init__(
        self, options: MediaOptions, limits: MediaLimits | None, stated: Presentation, crop_position: float = 0.5
    ) -> None:
        self._options, self._limits, self._stated, self._crop_position = options, limits, stated, crop_position
        self._orientation = stated.orientation
        self.plan: Plan | None = None
        self.details: details.FileDetails | None = None

    def note(self, frame: Any) -> None:
        """Take the orientation that a decoded frame of PyAV's states; it holds until another one states another."""
        stated = orientation(frame)
        if stated is not None:
            self._orientation = stated

    def pixels(self, container: Any, frame: Any) -> NDArray[np.uint8]:
        """Return a frame as uint8 RGB (H, W, 3); it and all before it must have been noted.

        Args:
            container, frame: PyAV's.

        Raises:
            MediaError: "too-many-pixels".
        """
        how, tags, stated = self._orientation, tags_of(frame, self._stated.colours), self._stated
        if stated.is_full:
            frame.color_range = FULL
        upright = how.frame(stated.crop.frame(frame_rgb(frame, tags, stated.shows_alpha)))
        if self.plan is None:
            height, width = stated.shown(frame.height, frame.width, frame.interlaced_frame)
            check_picture(self._limits, height, width, is_video=True)
            self.details = details.of_clip(container, frame, str(how), stated.aspect, tags)
            options = self._options
            self.plan = plan(*how.size(height, width), options.size, options.fit, self._limits, self._crop_position)
        shown = self.plan.frame(upright)
        return tone_mapping.to_srgb(shown, tags.transfer, tags.primaries) if shown.dtype == np.uint16 else shown


def orientation(frame: Any) -> Orientation | None:
    """Read the display matrix of a frame, if any, which may turn and mirror; `frame.rotation` knows of turns only."""
    # A frame keeps the container that it makes itself, which keeps the frame: its pixels would wait for the collector.
    data: Any = SideDataContainer(frame)  # type: ignore[call-arg]
    matrices = (bytes(side) for side in data if side.type == SideDataType.DISPLAYMATRIX)
    return next((from_matrix(matrix) for matrix in matrices), None)
