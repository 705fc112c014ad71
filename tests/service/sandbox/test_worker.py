"""A media worker keeps nothing of a file that it has answered."""

from __future__ import annotations

import gc
import socket
import weakref
from typing import Any

from media.limits import MediaLimits
from service.sandbox.ipc import Channel
from service.sandbox.worker import answer


class Frame:
    """A frame that holds itself."""

    def __init__(self) -> None:
        self.side_data = self


def test_frames_that_hold_themselves_end_with_their_task() -> None:
    frames: list[weakref.ref[Frame]] = []

    def decode(channel: Channel, task: dict[str, Any], limits: MediaLimits) -> None:
        frames.append(weakref.ref(Frame()))

    ours, theirs = socket.socketpair()
    gc.disable()
    try:
        with theirs:
            channel = Channel(ours)
            assert answer(channel, MediaLimits(), {}, decode)
            channel.close()
        assert frames[0]() is None
    finally:
        gc.enable()
