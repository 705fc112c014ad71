"""The metrics of the HTTP tier as a protocol, so that it imports no exporter."""

from __future__ import annotations

from typing import Protocol


class HttpMetrics(Protocol):
    """Receives one observation for each finished request. Every label comes from a closed set."""

    def observe(self, route: str, method: str, code: str, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Count a request that is over.

        Args:
            route: such as "/encode", or "other".
            method: such as "POST", or "other".
            code: the HTTP status, or "499" when the client left first.
            seconds: from the first byte of the request to the last of the answer.
            bytes_in, bytes_out: bodies, bytes.
        """
        ...

    def in_flight(self, route: str, change: int) -> None:
        """Count a request that began (+1) or ended (-1)."""
        ...


class NoMetrics:
    """Counts nothing: for an application without an exporter."""

    def observe(self, route: str, method: str, code: str, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Ignore the request."""

    def in_flight(self, route: str, change: int) -> None:
        """Ignore the change."""
