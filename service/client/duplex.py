"""HTTP/1.1 in both directions at once: httpx's own transport reads no answer before the request is sent.

It also takes a third of the processor's time of that transport, whose pool looks at every connection for each request.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.request import getproxies, proxy_bypass

import h11
import httpx

from service.loopback import is_loopback

BUFFER_BYTES = 2**18  # of a connection's answer
MAX_CONNECTIONS = 100  # as many as httpx opens
SAFE_METHODS = frozenset({"GET", "HEAD"})

Origin = tuple[str, str, int]


@dataclass
class Connection:
    """A connection that is kept from one request to the next."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))

    @property
    def alive(self) -> bool:
        """Return whether the server has not closed it, as far as is known."""
        return not (self.reader.at_eof() or self.writer.transport.is_closing())


def is_proxied(base_url: str) -> bool:
    """Return whether the environment sends calls to an address through a proxy: never those to this machine."""
    url = httpx.URL(base_url)
    if is_loopback(url.host):
        return False
    return not getproxies().keys().isdisjoint((url.scheme, "all")) and not proxy_bypass(url.netloc.decode())


class DuplexTransport(httpx.AsyncBaseTransport):
    """A transport of httpx for one event loop, which takes no proxy."""

    def __init__(self) -> None:
        self._idle: defaultdict[Origin, list[Connection]] = defaultdict(list)
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._context: Any = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer as soon as its head is there; the body of the request may still be on its way."""
        url = request.url
        secure = url.scheme == "https"
        origin = (url.scheme, url.host, url.port or (443 if secure else 80))
        connection = self._known(origin)
        if connection is not None:
            try:
                return await self._exchange(origin, connection, request)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # The server may have closed a connection that was idle (RFC 9110, section 9.2.2).
                if request.method not in SAFE_METHODS:
                    raise
        return await self._exchange(origin, None, request)

    async def _exchange(self, origin: Origin, connection: Connection | None, request: httpx.Request) -> httpx.Response:
        exchange: _Exchange | None = None
        try:
            await self._places.acquire()
        except BaseException:
            if connection is not None:
                connection.writer.close()
            raise
        try:
            connection = connection or await self._open(origin, request)
            exchange = _Exchange(self, origin, connection, request)
            return await exchange.response()
        except BaseException:
            if exchange is not None:
                await exchange.aclose()
            else:
                self._places.release()
                if connection is not None:
                    connection.writer.close()
            raise

    async def aclose(self) -> None:
        """Close the connections that are idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.close()
        self._idle.clear()

    def give_back(self, origin: Origin, connection: Connection | None) -> None:
        """End a request, whose connection may be used again if there is one."""
        self._places.release()
        if connection is not None and connection.alive:
            self._idle[origin].append(connection)

    def _known(self, origin: Origin) -> Connection | None:
        connections = self._idle[origin]
        while connections:
            connection = connections.pop()
            if connection.alive:
                return connection
            connection.writer.close()
        return None

    async def _open(self, origin: Origin, request: httpx.Request) -> Connection:
        scheme, host, port = origin
        if scheme == "https" and self._context is None:
            self._context = httpx.create_ssl_context()
        context = self._context if scheme == "https" else None
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("connect")):
                return Connection(*await asyncio.open_connection(host, port, ssl=context, limit=BUFFER_BYTES))
        except TimeoutError as error:
            raise httpx.ConnectTimeout("The connection timed out.", request=request) from error
        except OSError as error:
            raise httpx.ConnectError(str(error), request=request) from error


class _Exchange(httpx.AsyncByteStream):
    """One request on its way, and the body of its answer."""

    def __init__(
        self, transport: DuplexTransport, origin: Origin, connection: Connection, request: httpx.Request
    ) -> None:
        self._transport, self._origin, self._request = transport, origin, request
        self._connection, self._protocol = connection, connection.protocol
        self._seconds = request.extensions.get("timeout", {}).get("read")
        self._failure: BaseException | None = None
        self._closed = False
        self._sender: asyncio.Task[None] | None = None
        head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        if isinstance(request.stream, httpx.ByteStream):  # it is in memory already
            events = [head, *(h11.Data(data=piece) for piece in request.stream if piece), h11.EndOfMessage()]
            connection.writer.write(b"".join(self._protocol.send(event) or b"" for event in events))
        else:
            self._sender = asyncio.ensure_future(self._send(head))

    async def response(self) -> httpx.Response:
        while not isinstance(event := await self._event(), h11.Response):
            pass  # 100 Continue
        return httpx.Response(event.status_code, headers=event.headers.raw_items(), stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._event(), h11.Data):
            yield bytes(event.data)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        if self._protocol.our_state is self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()
            self._transport.give_back(self._origin, self._connection)
        else:
            self._connection.writer.close()
            self._transport.give_back(self._origin, None)

    async def _send(self, head: h11.Request) -> None:
        assert isinstance(self._request.stream, httpx.AsyncByteStream)
        try:
            await self._write(head)
            async for piece in self._request.stream:
                await self._write(h11.Data(data=piece))
            await self._write(h11.EndOfMessage())
        except (OSError, h11.LocalProtocolError):
            pass  # the answer says why, if there is one
        except Exception as error:  # of what makes the body
            self._failure = error
            self._connection.writer.transport.abort()

    async def _write(self, event: Any) -> None:
        self._connection.writer.write(self._protocol.send(event) or b"")
        await self._connection.writer.drain()

    async def _event(self) -> Any:
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout(self._seconds):
                    data = await self._connection.reader.read(BUFFER_BYTES)
                if self._failure is not None:
                    raise self._failure
                self._protocol.receive_data(data)
        except TimeoutError as error:
            raise httpx.ReadTimeout(
                f"The answer timed out: no byte came for {self._seconds:g} s.", request=self._request
            ) from error
        except OSError as error:
            raise self._failure or httpx.ReadError(str(error), request=self._request) from error
        except h11.RemoteProtocolError as error:
            raise httpx.RemoteProtocolError(str(error), request=self._request) from error
        if isinstance(event, h11.ConnectionClosed):
            raise httpx.RemoteProtocolError("The server closed the connection.", request=self._request)
        return event
