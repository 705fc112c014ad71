"""The wait for answers that leave through HAProxy, of which a scripted server takes the part."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import SECONDS

from service.cluster import haproxy
from service.cluster.haproxy import ADMIN_SOCKET, REQUESTS, wait_until_taken

LINE = "0x1: proto={} src=127.0.0.1:36868 fe={} be={} srv=a ts=00 epoch=0x1 age={} calls=1 rate=0 exp=57s rc=0 c_exp=\n"
ITSELF = LINE.format("unix_stream", "GLOBAL", "<NONE>", "1h0s")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    (tmp_path / "node").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "node" / ADMIN_SOCKET))
        listener.listen()
        yield listener


def answer(listener: socket.socket, *ages: str) -> threading.Thread:
    """Answer so many questions, on a thread, each with requests of the ages that its words say."""

    def run() -> None:
        for words in ages:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(64) == REQUESTS
                lines = [LINE.format("tcpv4", "http_frontend", "http-omnitok", age) for age in words.split()]
                connection.sendall("".join([*lines, ITSELF, "\n"]).encode())

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_answers_that_callers_take_are_waited_for(tmp_path: Path, listener: socket.socket) -> None:
    thread = answer(listener, "3s 2m9s", "1d2h", "")
    assert wait_until_taken(tmp_path, SECONDS)
    thread.join()


def test_answers_that_nobody_takes_are_waited_for_no_longer_than_asked(tmp_path: Path, listener: socket.socket) -> None:
    thread = answer(listener, "1m1s")
    assert not wait_until_taken(tmp_path, 0.0)
    thread.join()


def test_a_crowd_that_comes_after_the_stop_is_not_waited_for(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy, "POLL_SECONDS", 0.0)
    seconds = itertools.count()
    thread = answer(listener, "0s 1s 1m0s", "1s 2s", "0s 1s 1s 0s")
    assert wait_until_taken(tmp_path, SECONDS, lambda: next(seconds))
    thread.join()
    assert next(seconds) == 4, "the answer that left last was waited for"


def test_nothing_is_waited_for_without_a_haproxy(tmp_path: Path, listener: socket.socket) -> None:
    listener.close()
    assert wait_until_taken(tmp_path, SECONDS)
    assert wait_until_taken(tmp_path / "other", SECONDS)
