"""Ports for the programs that tests start."""

from __future__ import annotations

import random
import socket

from service.cluster.ports import reserve_port

# Below those of Ray's replicas, and below those that Linux gives to connections that go out.
CANDIDATES = range(10_000, 30_000)
_reservations: list[socket.socket] = []


def free_port() -> int:
    """Return a port that no other test gets, of this process or of another, for as long as this process lives."""
    port, reservation = reserve_port(random.sample(CANDIDATES, 100))
    _reservations.append(reservation)
    return port
