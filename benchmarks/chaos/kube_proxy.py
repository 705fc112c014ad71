"""A balancer of connections over the pods that are ready, as a Service of Kubernetes is one."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import suppress

import httpx

PROBE_SECONDS, FAILURES = 5.0, 3  # of the readiness probe, and until a pod is no longer ready


class KubeProxy:
    """A port of this machine, whose connections go to ready pods one after another.

    Args:
        port: on this machine.
        pod_port: of the API in the pods.
    """

    def __init__(self, port: int, pod_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port, self._pod_port = port, pod_port
        self._failures: dict[str, int] = {}  # by address of a pod
        self._turn = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def ready(self) -> list[str]:
        """Return the addresses of the pods that get connections."""
        return sorted(address for address, failures in self._failures.items() if failures < FAILURES)

    def add(self, address: str) -> None:
        """Probe a pod from now on; it gets connections once it is ready."""
        self._failures[address] = FAILURES

    def remove(self, address: str) -> None:
        """Give a pod no more connections; those that it has go on."""
        del self._failures[address]

    def close(self) -> None:
        """Take no more connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._prober = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        async with httpx.AsyncClient(timeout=PROBE_SECONDS, trust_env=False) as client:
            while True:
                for address in list(self._failures):
                    status = 0
                    with suppress(httpx.TransportError):
                        status = (await client.get(f"http://{address}:{self._pod_port}/health/ready")).status_code
                    if address in self._failures:
                        self._failures[address] = 0 if status == 200 else self._failures[address] + 1
                await asyncio.sleep(PROBE_SECONDS)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = self.ready()
        with suppress(OSError):
            if ready:
                address = ready[next(self._turn) % len(ready)]
                there, back = await asyncio.open_connection(address, self._pod_port)
                await asyncio.gather(_copy(reader, back), _copy(there, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()
