"""Bad files are refused for the right reason, open no other file and connect to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hostile_samples import ANIMATED, MP4, WHOLE, corpus, flipped, scripts
from media_samples import pattern, picture, video, workers
from pools import PATIENT
from waiting import eventually

from media.container import open_container
from media.errors import MediaError
from media.reader import open_frames
from media.types import MediaOptions
from service.errors import ProblemError
from service.sandbox.pool import MediaPool
from service.settings import Limits

LIMITS = PATIENT


class Traps:
    """A decoy file and a listening socket that notice any touch."""

    def __init__(self, directory: Path) -> None:
        self.decoy = directory / "decoy.mp4"
        self.decoy.write_bytes(MP4)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watch = self._libc.inotify_init1(os.O_NONBLOCK)
        self.watch(self.decoy)

    def watch(self, path: Path) -> None:
        """Notice any opening of `path`."""
        opened = 0x20
        assert self._libc.inotify_add_watch(self._watch, str(path).encode(), opened) >= 0

    def touched(self) -> list[str]:
        """Return the events since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            found.append(f"connection from {self.listener.accept()[1]}")
        with contextlib.suppress(BlockingIOError):
            found += ["a decoy was opened"] * bool(os.read(self._watch, 4096))
        return found

    def close(self) -> None:
        """Release sockets and watch."""
        self.listener.close()
        os.close(self._watch)


def attempt(data: bytes) -> str:
    """Read the file in this process: "accepted" or the problem's slug."""
    try:
        frames = list(open_frames(io.BytesIO(data), LIMITS, MediaOptions(animated=True)))
    except MediaError as problem:
        return problem.code
    return "accepted" if frames else "nothing"


@pytest.fixture
def traps(tmp_path: Path) -> Iterator[Traps]:
    traps = Traps(tmp_path)
    yield traps
    # The traps must work, or their silence means nothing.
    traps.decoy.read_bytes()
    socket.create_connection(("127.0.0.1", traps.port)).close()
    touched: list[str] = []
    eventually(lambda: touched.extend(traps.touched()) or len(touched) == 2)
    traps.close()


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[MediaPool]:
    pool = MediaPool(LIMITS, 2)
    await pool.start()
    yield pool
    await pool.stop()


async def test_the_whole_corpus_is_refused_by_name(pool: MediaPool, traps: Traps) -> None:
    (home,) = {Path(f"/proc/{worker}/cwd").resolve() for worker in workers()}
    assert list(home.iterdir()) == []
    (home / traps.decoy.name).write_bytes(MP4)
    traps.watch(home / traps.decoy.name)
    files = corpus(traps.decoy, traps.port)
    assert len(files) > 80
    wrong = []
    for name, data, declared, slugs in files:
        for options in (MediaOptions(), MediaOptions(size=(32, 32), frames=5, sampling="uniform", animated=True)):
            try:
                await pool.decode(data, declared, options)
                slug = "accepted"
            except ProblemError as problem:
                slug = problem.code
            # Fewer frames or a smaller size may be a way to use a file that is too much as a whole.
            if slug not in slugs and not (slugs == ("too-many-frames",) and options.frames):
                wrong.append((name, slug, slugs))
    assert not wrong, "\n".join(map(str, wrong))
    assert traps.touched() == []
    assert sum(pool.restarts.values()) == 0
    assert (await pool.decode(MP4, "video/mp4", MediaOptions())).pixels.shape == (9, 32, 48, 3)


def test_ffmpeg_itself_follows_no_script(traps: Traps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sniffer never lets these through; the way the container is opened must hold without it."""
    monkeypatch.chdir(traps.decoy.parent)
    for name, text in scripts(traps.decoy, traps.port).items():
        file = io.BytesIO(text)
        file.name = f"{name}.m3u8"
        with pytest.raises(Exception, match=r".*"), open_container(file, LIMITS) as container:
            next(container.decode(video=0))
    assert traps.touched() == []


@pytest.mark.parametrize("kind", [*WHOLE, *ANIMATED])
def test_random_damage_is_a_picture_or_a_problem(kind: str) -> None:
    for seed in range(25):
        assert attempt(flipped(seed, (WHOLE | ANIMATED)[kind])) in (
            "accepted",
            "corrupt-media",
            "decode-budget",
            "no-video-stream",
            "too-long",
            "too-many-frames",
            "too-many-pixels",
            "unsupported-codec",
            "unsupported-media-type",
        )


@pytest.mark.parametrize("kind", ANIMATED)
def test_an_animation_that_was_cut_off_is_refused(kind: str) -> None:
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert attempt(ANIMATED[kind][: int(len(ANIMATED[kind]) * part)]) == "corrupt-media"


def test_a_script_behind_a_real_picture_stays_unread(traps: Traps) -> None:
    for text in scripts(traps.decoy, traps.port).values():
        for kind in ("image/png", "image/jpeg", "image/gif", "video/mp4"):
            assert len(list(open_frames(io.BytesIO(WHOLE[kind] + b"\n" + text), LIMITS))) >= 1
    assert traps.touched() == []


def test_an_mp4_may_not_point_at_another_file(traps: Traps) -> None:
    """A data reference to the decoy in place of the samples that the file holds itself."""
    data = video(pattern(3, 32, 32))
    path = str(traps.decoy).encode() + b"\0"
    reference = struct.pack(">I4sI", 12 + len(path), b"url ", 0) + path
    table = data.index(b"dref") - 4
    old = int.from_bytes(data[table : table + 4], "big")
    box = struct.pack(">I4sII", 16 + len(reference), b"dref", 0, 1) + reference
    grown = bytearray(data[:table] + box + data[table + old :])
    for parent in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        start = grown.rindex(parent, 0, table + 4) - 4 if parent != b"dinf" else table - 8
        size = int.from_bytes(grown[start : start + 4], "big") + len(box) - old
        grown[start : start + 4] = size.to_bytes(4, "big")
    attempt(bytes(grown))  # either answer is right: its own samples, or a refusal
    assert traps.touched() == []


def test_bodies_over_their_kind_of_limit_are_refused() -> None:
    pool = MediaPool(Limits(image_bytes=100, video_bytes=200), 1)

    async def outcome(data: bytes) -> ProblemError:
        with pytest.raises(ProblemError) as caught:
            await pool.decode(data, None, MediaOptions())
        return caught.value

    for data, limit in ((picture(pattern(1, 32, 32)[0], "PNG"), 100), (MP4, 200)):
        problem = asyncio.run(outcome(data))
        assert (problem.code, problem.limit, problem.actual) == ("body-too-large", limit, len(data))
