"""The private folder in which tokenizer processes of one node put their sockets."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import struct
from pathlib import Path

MAX_PATH_BYTES = 107  # of a socket's address
SOCKET_NAME_BYTES = 4  # twice as many hexadecimal digits
SUFFIX = ".sock"
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class SocketDirectory:
    """The folder of one service on this node, which nobody else can enter; a lock holds it while a process uses it.

    Args:
        identity: of cluster, node and application; processes with the same one find each other.

    Attributes:
        path: the folder.

    Raises:
        OSError: somebody else has it, or its path is too long.
    """

    def __init__(self, *identity: str) -> None:
        sweep()
        name = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:12]
        self.path = _parent() / f"{_prefix()}{name}"
        if len(os.fsencode(self.path)) + 1 + 2 * SOCKET_NAME_BYTES + len(SUFFIX) > MAX_PATH_BYTES:
            raise OSError(f"{self.path} is too long for sockets. Set TMPDIR to a shorter path.")
        while True:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            try:
                self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:  # another service has swept it
                continue
            status = os.fstat(self._lock)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                os.close(self._lock)
                raise OSError(f"{self.path} must be a folder of this user alone, of mode 0700. Remove it.")
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            # It may have been swept since then.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(status, self.path.stat()):
                    return
            os.close(self._lock)

    def close(self) -> None:
        """Let the next service sweep the folder, once nobody else uses it."""
        os.close(self._lock)


def sweep() -> None:
    """Remove the folders of this user that no process uses."""
    for path in _parent().glob(f"{_prefix()}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
            finally:
                os.close(lock)


def _parent() -> Path:
    """Return the folder of temporary files, the same in all processes: Python takes another where it is full."""
    named = Path(os.environ.get("TMPDIR", ""))
    return named if named.is_absolute() and named.is_dir() else Path("/tmp")


def _prefix() -> str:
    return f"omnitok-link-{os.geteuid()}-"


def is_own_user(connection: socket.socket) -> bool:
    """Return whether the process at the other end runs as this user."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(data)[1] == os.geteuid())
