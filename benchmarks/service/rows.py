"""Rows of a run: one for each request, as an array that is written to disk as it is."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Failure(IntEnum):
    """Reasons for a request without an answer."""

    NONE = 0
    CONNECT = 1  # refused, or no route
    LOST = 2  # the connection ended in the middle
    TIMEOUT = 3
    MALFORMED = 4
    UNSENT = 5  # the run ended first


ROW = np.dtype(
    [
        ("due", "f8"),  # planned time, seconds after the start
        ("begun", "f8"),  # the generator took it up; NaN if it never did
        ("done", "f8"),  # last byte of the answer, or failure
        ("kind", "u1"),
        ("status", "u2"),  # 0 without an answer
        ("failure", "u1"),
        ("retry_after", "f4"),  # seconds; NaN without
        ("problem", "S32"),
        ("size", "u4"),
    ]
)
SHED = (429, 503)
