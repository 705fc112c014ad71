"""Traps that show what a service must not do: open a certain file, or connect to a certain port."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path

IN_ACCESS, IN_OPEN = 0x1, 0x20
EVENT = struct.Struct("iIII")


class FileTrap:
    """Sees every process on this machine that opens or reads a file (Linux's inotify).

    Args:
        path: the file to watch.
    """

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        if libc.inotify_add_watch(self._descriptor, os.fsencode(path), IN_ACCESS | IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch failed")

    def sprung(self) -> bool:
        """Return whether the file was touched since the last call."""
        try:
            return len(os.read(self._descriptor, 4096)) >= EVENT.size
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


class PortTrap:
    """A port on loopback that listens and should never hear anything."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def sprung(self) -> bool:
        """Return whether somebody has connected since the last call."""
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True

    def close(self) -> None:
        self._socket.close()
