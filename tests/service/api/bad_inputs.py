"""Bad requests and the problem that each must get, for any server that runs under `LIMITS`.

Bodies are made for a `Target`, because some name the bundle that is served, and some point at a file and a socket that
must stay untouched. `MARKER` is a file that exists once a pickle was run.
"""

from __future__ import annotations

from bad_bodies import BODIES
from bad_case import LIMITS, Case, Target, send
from bad_envelopes import ENVELOPES, OPTIONS
from bad_media import MEDIA
from bad_tokens import MARKER, TOKENS

CASES: list[Case] = [*ENVELOPES, *MEDIA, *OPTIONS, *BODIES, *TOKENS]

__all__ = ["CASES", "LIMITS", "MARKER", "Case", "Target", "send"]
