"""The wait for answers that leave through HAProxy, of which a scripted server takes the part."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import SECONDS

from service.cluster.haproxy import ADMIN_SOCKET, BACKENDS, wait_until_taken

TABLE = "# pxname,svname,qcur,qmax,scur,smax,\nhttp-omnitok,BACKEND,0,0,{},9,\nrefused,BACKEND,0,0,0,3,\n\n"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    (tmp_path / "node").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "node" / ADMIN_SOCKET))
        listener.listen()
        yield listener


def answer(listener: socket.socket, *requests: int) -> threading.Thread:
    """Answer so many questions, on a thread."""

    def run() -> None:
        for number in requests:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(64) == BACKENDS
                connection.sendall(TABLE.format(number).encode())

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_answers_that_callers_take_are_waited_for(tmp_path: Path, listener: socket.socket) -> None:
    thread = answer(listener, 2, 1, 0)
    assert wait_until_taken(tmp_path, SECONDS)
    thread.join()


def test_answers_that_nobody_takes_are_waited_for_no_longer_than_asked(tmp_path: Path, listener: socket.socket) -> None:
    thread = answer(listener, 1)
    assert not wait_until_taken(tmp_path, 0.0)
    thread.join()


def test_nothing_is_waited_for_without_a_haproxy(tmp_path: Path, listener: socket.socket) -> None:
    listener.close()
    assert wait_until_taken(tmp_path, SECONDS)
    assert wait_until_taken(tmp_path / "other", SECONDS)
