"""The loop of one process of the load generator: begins requests when they are due and notes when answers are whole."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.service.http import RECEIVE_BYTES, Answer, BadAnswerError, Connection
from benchmarks.service.mixes import Template
from benchmarks.service.plan import Plan
from benchmarks.service.rows import ROW, Failure

MAX_WAIT_S = 0.05  # between looks at the time-outs
BEGUN_AT_ONCE = 8  # before answers are looked at, which would look late otherwise


class Generator:
    """A load generator that runs a plan over keep-alive connections; it opens a new one when none is idle.

    Args:
        address: host and port.
        templates: requests by kind of the mix, then by content.
        plan: what to send.
        connections: the most connections at once.
        timeout: from the beginning of a request, seconds.
        closed: as soon as a connection is idle the next request begins; else each begins when it is due.
        seconds: no request begins later than this.
        salt: added to the numbers of the requests, so that they differ between runs.
    """

    def __init__(
        self,
        address: tuple[str, int],
        templates: Sequence[Sequence[Template]],
        plan: Plan,
        connections: int,
        timeout: float,
        closed: bool,
        seconds: float,
        salt: int = 0,
    ) -> None:
        self._address = address
        self._templates = templates
        self._plan = plan
        self._due: list[float] = plan.due.tolist()
        self._most = connections
        self._timeout = timeout
        self._closed = closed
        self._seconds = seconds
        self._salt = salt
        self._next = 0
        self._start = 0.0
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._in_flight: dict[int, Connection] = {}  # in the order of their beginnings
        self._begun = [float("nan")] * len(plan)
        self._done = [float("nan")] * len(plan)
        self._failures = [int(Failure.UNSENT)] * len(plan)
        self._answers: dict[int, Answer] = {}
        self._scratch = memoryview(bytearray(RECEIVE_BYTES))

    def run(self, start: float) -> NDArray[np.void]:
        """Run the whole plan and return its rows.

        Args:
            start: time of `time.perf_counter` that the plan counts from.
        """
        self._start = start
        with select.epoll() as self._epoll:
            while self._now() < 0:
                time.sleep(max(0.0, -self._now()))
            while self._begin_what_is_due() or self._in_flight:
                self._expire()
            for connection in list(self._connections.values()):
                self._close(connection)
        return self._rows()

    def _begin_what_is_due(self) -> bool:
        """Begin some requests, take the answers that are there or about to come, and return whether more will begin."""
        latest = self._seconds if self._closed else self._seconds + self._timeout
        more = self._next < len(self._due) and self._now() < latest
        for _ in range(BEGUN_AT_ONCE if more else 0):
            if self._next >= len(self._due) or not self._may_begin() or self._due[self._next] > self._now():
                break
            self._begin(self._next)
            self._next += 1
        more = more and self._next < len(self._due)
        wait = MAX_WAIT_S
        if more and self._may_begin():
            wait = min(wait, self._due[self._next] - self._now())
        if wait > 0 and (more or self._in_flight):
            select.select([self._epoll], [], [], wait)  # epoll alone rounds up to milliseconds
        for descriptor, events in self._epoll.poll(0):
            self._handle(self._connections[descriptor], events)
        return more

    def _now(self) -> float:
        return time.perf_counter() - self._start

    def _may_begin(self) -> bool:
        return bool(self._idle) or len(self._connections) < self._most

    def _begin(self, row: int) -> None:
        self._begun[row] = self._now()
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = Connection.open(self._address)
            descriptor = connection.socket.fileno()
            self._connections[descriptor] = connection
            self._epoll.register(descriptor, select.EPOLLIN)
        plan = self._plan
        template = self._templates[plan.kind[row]][plan.body[row]]
        self._in_flight[row] = connection
        try:
            if not connection.send(row, template.stamped(self._salt + int(plan.number[row]))):
                self._epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except OSError as error:
            self._fail(connection, _reason(error))

    def _handle(self, connection: Connection, events: int) -> None:
        if connection.row < 0:  # the server closed an idle connection
            self._idle.remove(connection)
            self._close(connection)
            return
        try:
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                answer = connection.receive(self._scratch)
                if answer is not None:
                    self._finish(connection, answer)
                    return
            if events & select.EPOLLOUT and connection.flush():
                self._epoll.modify(connection.socket.fileno(), select.EPOLLIN)
        except BlockingIOError:
            return
        except BadAnswerError:
            self._fail(connection, Failure.MALFORMED)
        except OSError as error:
            with contextlib.suppress(OSError, BadAnswerError):  # an early refusal may wait behind a broken pipe
                answer = connection.receive(self._scratch)
                if answer is not None:
                    self._finish(connection, answer)
                    return
            self._fail(connection, _reason(error))

    def _finish(self, connection: Connection, answer: Answer) -> None:
        row = self._end(connection, Failure.NONE)
        self._answers[row] = answer
        if answer.close or connection.unsent:
            self._close(connection)
        else:
            self._idle.append(connection)

    def _fail(self, connection: Connection, failure: Failure) -> None:
        self._end(connection, failure)
        self._close(connection)

    def _end(self, connection: Connection, failure: Failure) -> int:
        row, connection.row = connection.row, -1
        del self._in_flight[row]
        self._done[row] = self._now()
        self._failures[row] = int(failure)
        return row

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()  # which also ends its registration

    def _expire(self) -> None:
        while self._in_flight:
            row, connection = next(iter(self._in_flight.items()))
            if self._begun[row] + self._timeout > self._now():
                return
            self._fail(connection, Failure.TIMEOUT)

    def _rows(self) -> NDArray[np.void]:
        rows = np.zeros(self._next if self._closed else len(self._due), ROW)
        count = len(rows)
        rows["begun"] = self._begun[:count]
        rows["due"] = rows["begun"] if self._closed else self._plan.due
        rows["done"] = self._done[:count]
        rows["failure"] = self._failures[:count]
        rows["kind"] = self._plan.kind[:count]
        rows["retry_after"] = np.nan
        for index, answer in self._answers.items():
            row = rows[index]
            row["status"], row["retry_after"] = answer.status, answer.retry_after
            row["problem"], row["size"] = answer.problem, answer.size
        return rows


def _reason(error: OSError) -> Failure:
    return Failure.CONNECT if isinstance(error, ConnectionRefusedError) else Failure.LOST
