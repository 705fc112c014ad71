"""`python -m benchmarks.service.streams`: long videos that are encoded while they are sent, several at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.bulk_data import scaled_photo
from benchmarks.rows import RowFile
from media.write import encode_video
from service.client import Client
from service.formats.result import EncodeResult

FPS = 25.0
Times = tuple[float, float]  # seconds to the first part and to the last


def main(
    url: Annotated[str, typer.Option(help="Of the service.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="A tokenizer that streams; the default one if not given.")] = None,
    frames: Annotated[int, typer.Option(help="Of the video.")] = 1000,
    side: Annotated[int, typer.Option(help="Of its pictures, pixels.")] = 256,
    at_once: Annotated[list[int] | None, typer.Option(help="Streams at once; repeat for a sweep.")] = None,
    out: Annotated[Path | None, typer.Option(help="File of the rows, JSON.")] = None,
) -> None:
    """Print frames a second, how many times faster than the video plays that is, and when the first part came."""
    video = encode_video(moving(frames, side), "video/mp4", FPS)
    options: Any = {"model": model} if model else {}
    table = RowFile(out)

    def measure(work: str, count: int, run: Any) -> None:
        begun = time.perf_counter()
        with ThreadPoolExecutor(count) as threads:
            times: list[Times] = list(threads.map(run, range(count)))
        rate = count * frames / (time.perf_counter() - begun)
        firsts, lasts = zip(*times, strict=True)
        table.add(
            {
                "stream": f"{work}, {frames} frames of {side}x{side}",
                "at once": str(count),
                "frames/s": f"{rate:,.0f}",
                "times real time, the slowest": f"{frames / FPS / max(lasts):.1f}",
                "first part after: p50, longest, s": f"{np.median(firsts):.2f}, {max(firsts):.2f}",
            }
        )

    with Client(url) as client:
        parts = client.encode_stream(video, **options)
        codes = np.concatenate(list(parts))  # the first one may wait for kernels
        assert parts.end is not None
        assert parts.end.meta is not None
        result = EncodeResult(parts.end.meta, codes)

        def encode(_: int) -> Times:
            return timed(client.encode_stream(video, **options))

        def decode(_: int) -> Times:
            return timed(client.decode_stream(result, **options))

        for count in at_once or (1, 4, 8):
            measure("encode H.264", count, encode)
            measure("decode to pixels", count, decode)


def moving(frames: int, side: int) -> Iterator[NDArray[np.uint8]]:
    """Yield views of a photograph that move to and fro."""
    photo = scaled_photo()
    most = photo.shape[0] - side
    for frame in range(frames):
        place = most - abs(frame % (2 * most) - most)
        yield photo[place : place + side, place : place + side]


def timed(parts: Any) -> Times:
    """Take all parts of a stream; return the seconds to the first and to the last."""
    begun, first = time.perf_counter(), 0.0
    for _ in parts:
        first = first or time.perf_counter() - begun
    return first, time.perf_counter() - begun


if __name__ == "__main__":
    typer.run(main)
