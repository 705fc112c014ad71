"""JPEGs that a GPU decodes: who decodes which, the pixels are those of `media`, and a lost process costs no item."""

from __future__ import annotations

import io
import mmap
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from bulk_samples import EXECUTOR, SQUARES, LocalExecutor, Tokenize, photo
from jpeg_codecs import CRASHES, HANGS, REFUSED, WRONG, Codec, Nothing, Otherwise
from PIL import Image

from media.images import StillReader
from media.reader import open_frames
from media.resize import plan
from media.types import MediaOptions
from model.codes.info import CodesError, EncodingOptions
from model.codes.reader import manifest, open_encoded, read_kind
from service.bulk import encoder, reading
from service.bulk.encoder import ShardEncoder, Workplace
from service.bulk.errors import BulkError
from service.bulk.reading import read_views
from service.bulk.sources import WHOLE_FILE, Item
from service.engine import jpeg_process
from service.engine.jpeg_process import JpegProcesses
from service.engine.jpegs import NoJpegEnginesError, NvImageCodec, SourceJpeg, check_pixels
from service.engine.pictures import DevicePixels, SourcePicture
from service.engine.tokenizer import Engine

GPU = replace(SQUARES, jpeg="gpu", flips=True)
CPU = replace(GPU, jpeg="cpu")
PICTURE = 48 * 64 * 3


class GpuExecutor(LocalExecutor):
    """A tokenizer on the CPU that is taken for one on a GPU."""

    def __init__(self) -> None:
        self.workplace = Workplace("cuda", "float32", 1, 1)

    def run(self, *arguments: Any) -> None:
        LocalExecutor.run(EXECUTOR, *arguments)


class Watched(JpegProcesses):
    """Processes that note for each batch whether it is decoded."""

    batches: ClassVar[list[bool]] = []

    def decode(self, jpegs: Sequence[SourceJpeg]) -> list[SourcePicture] | None:
        pictures = super().decode(jpegs)
        self.batches.append(pictures is not None)
        return pictures


@pytest.fixture(autouse=True)
def one_process_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    strategy = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    monkeypatch.setattr(jpeg_process, "PROCESSES", 1)
    monkeypatch.setattr(encoder, "JpegProcesses", partial(Watched, device="cpu", codec=Codec))
    monkeypatch.setattr(Engine, "resizes_pictures", lambda self: True)
    Watched.batches.clear()
    yield
    torch.multiprocessing.set_sharing_strategy(strategy)


def marked(data: bytes, mark: bytes) -> bytes:
    """Return a JPEG with a comment."""
    return data[:2] + b"\xff\xfe" + (2 + len(mark)).to_bytes(2, "big") + mark + data[2:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain JPEGs, and pictures that are left to readers, of which one is too damaged to show."""
    path = tmp_path / "data"
    path.mkdir()
    for seed in range(6):
        (path / f"plain-{seed}.jpg").write_bytes(photo(seed))
    picture = Image.open(io.BytesIO(photo(6)))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(path / "turned.jpg", exif=turned)
    picture.save(path / "slow.jpg", progressive=True)
    picture.convert("CMYK").save(path / "print.jpg")
    picture.save(path / "lossless.png")
    picture.resize((640, 480)).save(path / "large.jpg")
    (path / "cut.jpg").write_bytes(photo(7)[:200])
    return path


def written(dest: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Return the rows of a data set's pictures, and the records of its manifest."""
    info = open_encoded(dest)
    rows = read_kind(dest, info, "images")
    columns = rows.keys, rows.views, rows.flips, rows.preprocess, [codes.tolist() for codes in rows.codes]
    return columns, list(manifest(dest, info, "images"))


def test_plain_jpegs_go_to_the_gpu_and_codes_are_the_same(tokenize: Tokenize, folder: Path, tmp_path: Path) -> None:
    tokenize(tmp_path / "usual", folder, CPU)
    tokenize(tmp_path / "gpu", folder, GPU, executor=GpuExecutor())
    assert written(tmp_path / "gpu") == written(tmp_path / "usual")
    assert open_encoded(tmp_path / "gpu").options.jpeg == "gpu"
    assert Watched.batches == [True]
    with pytest.raises(BulkError, match="codes with another options"):
        tokenize(tmp_path / "usual", folder, GPU, executor=GpuExecutor())


def test_readers_decode_what_the_gpu_fails(tokenize: Tokenize, folder: Path, tmp_path: Path) -> None:
    (folder / "plain-1.jpg").write_bytes(marked(photo(1), CRASHES))
    (folder / "plain-lost.jpg").write_bytes(photo(8).replace(b"\xff\xdb", b"\xff\xfe"))  # no tables
    tokenize(tmp_path / "usual", folder, CPU)
    assert tokenize(tmp_path / "gpu", folder, GPU, executor=GpuExecutor()).failed == 2
    assert written(tmp_path / "gpu") == written(tmp_path / "usual")
    assert Watched.batches == [False]


def test_a_lost_process_costs_its_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_process, "BATCH_SECONDS", 1.0)
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, 2**20)
    shared = mmap.mmap(descriptor, 2**20)
    resampling = plan(48, 64, (32, 32), "cover", None).resampling(Image.new("RGB", (64, 48)))
    assert resampling is not None

    def jpeg(data: bytes, start: int | None = None) -> SourceJpeg:
        place = np.frombuffer(data, np.uint8)
        if start is not None:
            place = np.frombuffer(shared, np.uint8, len(data), start)
            shared[start : start + len(data)] = data
        return SourceJpeg(place, (48, 64), resampling)

    processes = JpegProcesses(descriptor, shared, 1, 2 * PICTURE, "cpu", Codec)
    try:
        usual = [jpeg(photo(0)), jpeg(photo(1), 4096)]  # one outside of the shared memory, and one in it
        for bad in (CRASHES, HANGS, REFUSED, WRONG):
            assert processes.decode([*usual, jpeg(marked(photo(2), bad))]) is None
        assert processes.decode([*usual, jpeg(photo(2))]) is None  # the memory holds two
        for seed, picture in enumerate(processes.decode(usual) or ()):
            memory, start, shape = cast("DevicePixels", picture.pixels)
            pixels = memory[start : start + PICTURE].view(shape).numpy()
            assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(photo(seed)))))
        assert processes.cpu_seconds() > 0
    finally:
        processes.close()


@pytest.mark.parametrize(
    ("codec", "said"),
    [(Otherwise, "4:4:4, quality 50, to other pixels"), (Nothing, "no JPEG engines"), (NvImageCodec, "se --jpeg cpu")],
)
def test_the_run_ends_at_once_where_engines_do_not_give_the_pixels(
    tokenize: Tokenize,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: Callable[[], Any],
    said: str,
) -> None:
    monkeypatch.setattr(encoder, "JpegProcesses", partial(JpegProcesses, device="cpu", codec=codec))
    with pytest.raises(BulkError, match=said):
        tokenize(tmp_path / "codes", folder, GPU, executor=GpuExecutor())


def test_a_place_that_cannot_is_refused(
    tokenize: Tokenize, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BulkError, match="Only a GPU has engines for JPEGs"):
        tokenize(tmp_path / "codes", folder, GPU)
    monkeypatch.setattr(Engine, "resizes_pictures", lambda self: False)
    with pytest.raises(BulkError, match="not on this device"):
        tokenize(tmp_path / "codes", folder, GPU, executor=GpuExecutor())
    with pytest.raises(CodesError, match="must be one of cpu, gpu"):
        EncodingOptions(32, 32, jpeg="tpu")  # type: ignore[arg-type]
    with pytest.raises(CodesError, match="needs a size"):
        EncodingOptions(jpeg="gpu")


def test_what_ends_a_run_comes_through_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ShardEncoder, shard: Any) -> None:
        raise NoJpegEnginesError("Use --jpeg cpu.")

    monkeypatch.setattr(ShardEncoder, "encode", fail)
    (answer,) = ShardEncoder.__call__(object.__new__(ShardEncoder), {"shard": [pickle.dumps(None)]})["report"]
    assert str(pickle.loads(answer)) == "Use --jpeg cpu."


def test_pixels_are_compared_bit_by_bit() -> None:
    class OneBit(Codec):
        def pixels(self, data: bytes) -> torch.Tensor:
            pixels = super().pixels(data)
            pixels[-1, -1, -1] ^= len(data) > 100_000
            return pixels

    check_pixels(Codec())
    with pytest.raises(NoJpegEnginesError, match="500x375 pixels, 4:4:4, quality 95, to other pixels"):
        check_pixels(OneBit())


@pytest.mark.parametrize(
    "settings",
    [
        *({"subsampling": name} for name in ("4:4:4", "4:2:2", "4:2:0")),
        {"mode": "L"},
        {"restart_marker_blocks": 3},
        {"progressive": True},
        {"keep_rgb": True},
        {"mode": "CMYK"},
    ],
    ids=str,
)
def test_usual_jpegs_are_left_to_the_gpu(settings: dict[str, Any]) -> None:
    is_usual = settings.keys() <= {"subsampling", "restart_marker_blocks"} or settings == {"mode": "L"}
    mode, file = settings.pop("mode", "RGB"), io.BytesIO()
    Image.open(io.BytesIO(photo(0))).convert(mode).save(file, "JPEG", **settings)
    whole = file.getvalue()
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    turned = bytearray(whole)
    turned[whole.index(b"\xff\xc0" if is_usual else b"\xff") + 11] = 0x12  # 4:4:0
    expected = {
        whole: is_usual,
        whole + bytes(8): False,
        bytes(turned): False,
        whole[:2] + adobe + b"\0" + whole[2:]: False,
    }
    for data, left in expected.items():
        reader = open_frames(io.BytesIO(data), None, MediaOptions((32, 32)))
        assert isinstance(reader, StillReader)
        found = reader.undecoded()
        assert (found is not None) == left
        assert found is None or found[0] == (48, 64)


def test_a_panorama_is_left_to_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wide.jpg"
    path.write_bytes(photo(0, 32, 512))
    item = Item("wide.jpg", -1, str(path), path.stat().st_size, 0, WHOLE_FILE)
    [view] = read_views(item, "images", SQUARES, leave_resize=True, leave_jpegs=True)[1]
    assert view.jpeg == (32, 512)
    assert view.pixels.tobytes() == path.read_bytes()
    monkeypatch.setattr(reading, "JPEG_ENLARGEMENT", 15)
    [view] = read_views(item, "images", SQUARES, leave_resize=True, leave_jpegs=True)[1]
    assert view.jpeg is None
    assert view.pixels.shape == (1, 32, 512, 3)
