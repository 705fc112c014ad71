"""Ray on the loopback address, so that others do not reach the ports of a machine's own cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def ray_on_loopback() -> Iterator[None]:
    """Have a cluster that Ray starts here take loopback for its address, as Ray does on macOS, and listen there alone.

    The ports between replicas of Ray Serve stay on every interface; like all of Ray's, they want its token.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER  # read from its variable when Ray is imported, which was before
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
