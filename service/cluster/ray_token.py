"""The token of a cluster of this machine: a new one for each, which its user alone can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from service.cluster.ray_environment import environment

TOKEN_BYTES = 32


@contextlib.contextmanager
def ray_token(folder: Path) -> Iterator[None]:
    """Have Ray take a token of this folder, unless the environment names another.

    Ray's own is in the home, where others may read it and the service may be unable to write.

    Args:
        folder: private to the cluster.
    """
    path = folder / "ray-token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(TOKEN_BYTES))
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    loader = AuthenticationTokenLoader.instance()
    with environment({"RAY_AUTH_TOKEN_PATH": str(path)}):
        loader.reset_cache()  # it would keep one for as long as its process lives
        loader.has_token(ignore_auth_mode=True)  # which reads it
        yield
    loader.reset_cache()  # not after a failure: a start that a signal stops goes on until its process ends
