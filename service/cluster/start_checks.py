"""Checks of the machine before a start: what Ray would wait for, or say in words of its own."""

from __future__ import annotations

import os
import resource
import socket
import sys

from ray._common.utils import get_default_ray_temp_dir

from service.cluster.ray_environment import proxy_connections, uses_haproxy
from service.link.directory import MAX_PATH_BYTES
from service.settings import Settings

LOOPBACK = "127.0.0.1"
MIN_CONNECTIONS = 64  # a browser has six, a pool of connections dozens
QUOTING = frozenset("'\"\\")
SOCKET = "session_2000-01-01_00-00-00_000000_{}/sockets/plasma_store"  # the longest path of Ray's, with its process id


class StartError(OSError):
    """The service cannot start; the message is one sentence for the person at the terminal."""


def check_loopback() -> None:
    """Check that processes of this machine reach each other: Ray's would wait for each other for two minutes.

    Raises:
        StartError: they do not.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((LOOPBACK, 0))
            probe.connect(probe.getsockname())
        except OSError as error:
            detail = f"Ray needs the address {LOOPBACK}, and this machine has none: {error.strerror}."
            raise StartError(f"{detail} Run ip link set lo up and ip address add {LOOPBACK}/8 dev lo.") from error


def check_python() -> None:
    """Check that docstrings are there, which parts of Ray add to.

    Raises:
        StartError: they are stripped.
    """
    if sys.flags.optimize > 1:
        raise StartError("Ray does not work with PYTHONOPTIMIZE=2, as with python -OO. Unset it, or use 1.")


def check_folders() -> None:
    """Check that the working folder exists, and that Ray can have its sockets in theirs.

    Raises:
        StartError: it does not, or their paths are longer than the kernel allows, or Ray would misread them.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise StartError("The working folder of this command has been removed. Change to another folder.") from error
    folder = get_default_ray_temp_dir()
    if QUOTING.intersection(folder):  # it is part of command lines, which Ray's agents then do not understand
        raise StartError(
            f"The folder {folder} for Ray's sockets has a quote in its path. Set RAY_TMPDIR to another one."
        )
    excess = len(os.fsencode(f"{folder}/{SOCKET.format(os.getpid())}")) - MAX_PATH_BYTES
    if excess > 0:
        detail = f"The folder {folder} for Ray's sockets is too long by {excess} bytes."
        raise StartError(f"{detail} Set RAY_TMPDIR to a shorter path, such as /tmp.")


def check_open_files(settings: Settings) -> None:
    """Check that HAProxy may open files for more than a few connections.

    Raises:
        StartError: it may not.
    """
    served, _ = proxy_connections(settings)
    if uses_haproxy(settings) and served < min(settings.max_connections, MIN_CONNECTIONS):
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise StartError(
            f"A process may open {files} files here, so HAProxy could serve {served} connections. Raise the "
            "hard limit to 65536, by LimitNOFILE of systemd, --ulimit of Docker or limits.conf."
        )
