"""Workers that are killed, hang or run out of memory cost one answer at most, and the pool goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from handover import Handover
from media_samples import pattern, picture, png_bomb, psnr, video, workers
from pools import CLIP, MIB, MP4, PATIENT, WHOLE, refusal, running, start
from waiting import eventually, until

from media.types import MediaOptions
from service.errors import ProblemError
from service.metrics.folder import process_name
from service.sandbox import lane, process
from service.sandbox.pool import MediaPool
from service.settings import Limits


async def test_many_tasks_at_once_each_get_their_own_answer() -> None:
    async with running(count=2) as pool:
        clips = [pattern(2 + index, 16, 16 + 2 * index) for index in range(8)]
        answers = await asyncio.gather(*(start(pool, video(clip)) for clip in clips))
        for clip, answer in zip(clips, answers, strict=True):
            assert psnr(answer.pixels, clip) > 25
        assert pool.results == {("decode", "mp4", "ok"): 8}
        assert not pool.restarts


async def test_results_are_written_and_read_back() -> None:
    async with running() as pool:
        for media_type in ("video/mp4", "video/webm", "image/gif"):
            file = await pool.encode(CLIP, media_type, 24.0)
            frames = await pool.decode(file, media_type, MediaOptions(animated=True))
            assert frames.pixels.shape == CLIP.shape
            assert frames.is_video
        for media_type in ("image/png", "image/jpeg", "image/webp"):
            file = await pool.encode(CLIP[:1, ::-1], media_type, 24.0, None if media_type == "image/png" else 90)
            frames = await pool.decode(file, media_type, WHOLE)
            assert psnr(frames.pixels, CLIP[:1, ::-1]) > 28
            assert not frames.is_video
        for pixels, media_type, quality in ((CLIP, "image/png", None), (CLIP, "video/mp4", 50), (CLIP, "text/html", 1)):
            with pytest.raises(ProblemError) as caught:
                await pool.encode(pixels, media_type, 24.0, quality)
            assert caught.value.code == "invalid-options"
        assert pool.results["encode", "mp4", "ok"] == 1
        assert not pool.restarts


async def test_a_problem_crosses_the_border_whole_and_costs_no_process() -> None:
    async with running(replace(PATIENT, kept_frames=8)) as pool:
        before = workers()
        problem = await refusal(start(pool))
        assert (problem.code, problem.limit, problem.actual) == ("too-many-frames", 8, 9)
        assert "`frames`" in problem.detail
        problem = await refusal(start(pool, options=MediaOptions(start_s=9.0)))
        assert problem.errors[0]["pointer"] == "/start_s"
        assert workers() == before
        assert pool.results["decode", "mp4", "too-many-frames"] == 1


async def test_a_worker_that_hangs_is_ended_by_the_clock() -> None:
    async with running(Limits(decode_seconds=0.3)) as pool:
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        problem = await refusal(start(pool))
        assert (problem.code, problem.limit) == ("decode-budget", 0.3)
        assert pool.restarts == {"timeout": 1}
        await until(lambda: len(workers()) == 1 and workers() != [worker])
    async with running() as pool:
        assert (await start(pool)).pixels.shape == CLIP.shape


async def test_a_worker_that_eats_memory_is_stopped_by_the_kernel() -> None:
    async with running(replace(PATIENT, worker_memory_bytes=320 * MIB)) as pool:
        problem = await refusal(start(pool, png_bomb(6000), MediaOptions(size=(64, 64))))
        assert problem.code == "decode-budget"
        assert pool.restarts == {"memory": 1}
        assert (await start(pool)).pixels.shape == CLIP.shape


async def test_cancelling_ends_the_work(handover: Handover) -> None:
    async with running() as pool:
        handover.stops = 1
        running_task, waiting_task = start(pool), start(pool)
        worker = await handover.of(1)
        running_task.cancel()
        waiting_task.cancel()
        for task in (running_task, waiting_task):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await start(pool)).pixels.shape == CLIP.shape
        assert pool.restarts == {"cancelled": 1}
        assert worker not in workers()


async def test_a_stream_that_is_given_up_is_no_loss_of_a_worker() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield MP4

    async with running() as pool:
        before = workers()
        async with pool.stream(pieces(), "video/mp4", WHOLE) as frames:
            (decoder,) = set(workers()) - set(before)
            os.kill(decoder, signal.SIGSTOP)
            step = asyncio.create_task(frames.open())
            await until(lambda: pool.load()["media_workers_busy"] == 1)
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
        await until(lambda: pool.load()["media_workers_busy"] == 0)
        assert not pool.restarts


async def test_a_process_that_was_ended_gets_no_more_tasks_however_late_the_kernel_comes_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as pool:
        gate, fit = threading.Event(), lane.Lane.fit
        monkeypatch.setattr(lane.Lane, "fit", lambda self: gate.wait() and fit(self))
        monkeypatch.setattr(subprocess.Popen, "poll", lambda self: self.returncode)
        task = start(pool)
        await asyncio.sleep(0)
        task.cancel()  # before its thread begins
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        assert (await start(pool)).pixels.shape == CLIP.shape
        assert pool.restarts == {"cancelled": 1}


async def test_stopping_refuses_what_runs_and_what_waits(handover: Handover) -> None:
    async with running() as pool:
        handover.stops = 1
        tasks = [start(pool) for _ in range(3)]
        home = Path(f"/proc/{await handover.of(1)}/cwd").resolve()
        await pool.stop()
        for task in tasks:
            assert (await refusal(task)).code == "draining"
        assert not home.exists()
        assert (await refusal(start(pool))).code == "draining"


async def test_workers_are_replaced_after_their_share_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_TASKS_PER_WORKER", 3)
    async with running() as pool:
        seen = set()
        for _ in range(7):
            await start(pool)
            await until(lambda: len(workers()) == 1)
            seen.update(workers())
        await until(lambda: pool.restarts == {"recycled": 2})
        assert len(seen) >= 2


async def test_a_worker_has_nothing_that_it_does_not_need() -> None:
    async with running() as pool:
        await start(pool)
        await start(pool, picture(CLIP[0], "PNG"))
        await pool.encode(CLIP, "video/mp4", 24.0)
        (worker,) = workers()
        home = Path(f"/proc/{worker}")
        limits = {line[:26].strip(): line[26:].split() for line in (home / "limits").read_text().splitlines()}
        assert limits["Max address space"][0] == str(Limits().worker_memory_bytes)
        assert limits["Max file size"][0] == limits["Max core file size"][0] == limits["Max processes"][0] == "0"
        assert int(limits["Max open files"][0]) <= 16
        assert limits["Max cpu time"][0] != "unlimited"
        assert (home / "environ").read_bytes() in (b"", b"OPENBLAS_NUM_THREADS=1\0")
        targets = [os.readlink(entry) for entry in (home / "fd").iterdir()]
        assert sorted(target.split(":")[0] for target in targets) == ["/dev/null"] * 3 + ["socket"]
        status = (home / "status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Threads:\t1\n" in status
        loaded = (home / "maps").read_text()
        assert "libavcodec" in loaded
        assert not [name for name in ("torch", "ray/_raylet", "pydantic_core") if name in loaded]
        assert list((home / "cwd").resolve().iterdir()) == []


def test_workers_die_with_a_service_that_is_killed() -> None:
    code = """
import asyncio, os, signal, sys
sys.path.insert(0, "tests/media")
from media_samples import workers
from service.sandbox.pool import MediaPool
from service.settings import Limits
async def main():
    pool = MediaPool(Limits(), 2)
    await pool.start()
    print(*workers(), flush=True)
    for worker in workers():
        os.kill(worker, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = done.stdout.split()
    assert len(pids) == 2
    eventually(lambda: all(process_name(int(pid)) is None for pid in pids))


PICTURE = picture(CLIP[0], "PNG")
FILES = pytest.mark.parametrize("data", [MP4, PICTURE], ids=["clip", "picture"])
ONE_PIXEL = """channel.send({"kind": "begin", "shape": [1, 1, 1, 3]})
channel.send({"kind": "frame"}, b"abc")
"""
FACTS = """{"source": {"media_type": "image/png", "codec": "png", "width": 1, "height": 1, "frames_in": 1, "fps": None,
"duration_s": None, "sampled_pts": [0.0]}, "preprocess": {}, "is_video": False, "seconds": 0.001}"""
LIES = {
    "no message": 'channel.send_raw(b"\\xff" * 64)',
    "no JSON": 'channel.send_raw(b"\\1\\0\\0\\0{")',
    "no map": "channel.send([1])",
    "unknown kind": 'channel.send({"kind": "surprise"})',
    "unknown problem": 'channel.send({"kind": "problem", "slug": "x", "detail": "y"})',
    "endless shape": 'channel.send({"kind": "begin", "shape": [129, 100000, 100000, 3]})',
    "negative shape": 'channel.send({"kind": "begin", "shape": [-1, 8, 8, 3]})',
    "no shape": 'channel.send({"kind": "begin"})',
    "too many frames": ONE_PIXEL + 'channel.send({"kind": "frame"}, b"abc")',
    "no facts": ONE_PIXEL + 'channel.send({"kind": "end"})',
    "silence": "",
    "picture without a shape": 'channel.send({"kind": "picture"}, b"abc")',
    "endless picture": 'channel.send({"kind": "picture", "shape": [1, 100000, 100000, 3]}, b"abc")',
    "picture without facts": 'channel.send({"kind": "picture", "shape": [1, 1, 1, 3]}, b"abc")',
    "part of a picture": 'channel.send({"kind": "picture", "shape": [1, 1, 1, 3]}, b"ab")',
    "clip as a picture": 'channel.send({"kind": "picture", "shape": [2, 1, 1, 3]} | ' + FACTS + ', b"abcdef")',
    "time that runs backwards": 'channel.send({"kind": "picture", "shape": [1, 1, 1, 3]} | '
    + FACTS.replace("0.001", "-1.0")
    + ', b"abc")',
    "part of a header": 'channel.send_raw(b"\\1\\0\\0")',
    "deep header": 'channel.send_raw(b"\\0\\20\\0\\0" + b"[" * 4096)',
}


@FILES
@pytest.mark.parametrize("lie", LIES)
async def test_nothing_a_captured_worker_says_is_believed(
    lie: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = f"""# service.sandbox.worker, captured
import json, socket, sys
sys.path[:] = json.loads(sys.argv[2])
from service.sandbox.ipc import Channel
sock = socket.socket(fileno=int(sys.argv[1]))
channel = Channel(sock)
channel.send_raw = sock.sendall
channel.receive()
channel.send({{"kind": "ready"}})
channel.receive_bytes(channel.receive()["bytes"])
{LIES[lie]}
"""
    monkeypatch.setattr(process, "_BOOT", captured)
    async with running() as pool:
        assert (await refusal(start(pool, data))).code == "corrupt-media"
        assert pool.restarts == {"crash": 2}


async def test_a_worker_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_BOOT", "# service.sandbox.worker\nraise SystemExit(3)")
    with pytest.raises(RuntimeError, match="did not start"):
        await MediaPool(Limits(), 1).start()
    assert workers() == []


async def test_a_kernel_without_the_walls_needs_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = """from service.sandbox import restrictions, seccomp
restrictions.landlock_version = lambda: 0
seccomp.install = lambda: False
"""
    start_of_worker = "from service.sandbox.worker"
    monkeypatch.setattr(process, "_BOOT", process._BOOT.replace(start_of_worker, lacking + start_of_worker))
    with pytest.raises(RuntimeError, match=r"Landlock and seccomp.*OMNITOK_ALLOW_WEAK_SANDBOX"):
        await MediaPool(Limits(), 1).start()
    assert workers() == []
    async with running(allow_weak=True) as pool:
        assert (await start(pool)).pixels.shape == CLIP.shape
