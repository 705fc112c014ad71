"""The least time that the published geometry can take on an H100."""

from __future__ import annotations

PUBLISHED = {
    (1, 1, 256): (77, 81),
    (16, 1, 256): (1165, 1229),
    (64, 1, 256): (4655, 4910),
    (64, 1, 128): (1080, 1150),
    (1, 17, 256): (442, 462),
    (8, 17, 128): (860, 870),
    (8, 17, 256): (3530, 3690),
}
"""Batch, frames, side to microseconds of encode and decode if every operator ran at 798 TFLOP/s or 3.0 TB/s, whichever
takes longer; with attention over one frame merged into one product."""
