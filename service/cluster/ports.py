"""Ports that are held from their choice until a program listens there: whoever chooses meanwhile gets others."""

from __future__ import annotations

import socket
from collections.abc import Iterable


def reserve_port(candidates: Iterable[int]) -> tuple[int, socket.socket]:
    """Return the first port that nobody uses or has reserved, and the reservation, which ends when it is closed.

    A reservation is a name among those of Unix sockets without a file. The kernel gives it to one process of the
    network, and takes it back when the process ends. The port itself stays free for the program that is to have it.

    Args:
        candidates: ports in the order of preference.

    Raises:
        OSError: none is left.
    """
    for port in candidates:
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0omnitok-port-{port}")
            _check_unused(port)
        except OSError:
            reservation.close()
        else:
            return port, reservation
    raise OSError("Every port that the service would take for itself is in use on this machine. Stop other programs.")


def _check_unused(port: int) -> None:
    with socket.socket() as probe:
        # Connections of a program that has ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
