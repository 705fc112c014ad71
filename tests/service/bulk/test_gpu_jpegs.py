"""JPEGs that a GPU decodes: who decodes which, the pixels are those of `media`, and a refusal costs no item."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from bulk_samples import EXECUTOR, SQUARES, LocalExecutor, Tokenize, photo
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from media.images import StillReader
from media.reader import open_frames
from media.resize import plan
from media.types import MediaOptions
from model.codes.info import CodesError, EncodingOptions
from model.codes.reader import manifest, open_encoded, read_kind
from service.bulk import encoder, reading
from service.bulk.errors import BulkError
from service.bulk.executors import Workplace
from service.bulk.job import Job, Request
from service.bulk.reading import read_views
from service.bulk.sources import WHOLE_FILE, Item
from service.engine import nvjpeg
from service.engine.jpegs import JpegDecoder, NoJpegEnginesError, SourceJpeg
from service.engine.nvjpeg import NvJpeg
from service.engine.pictures import DevicePixels, SourcePicture
from service.engine.tokenizer import Engine

GPU = replace(SQUARES, jpeg="gpu", flips=True)
CPU = replace(GPU, jpeg="cpu")
PICTURE = 48 * 64 * 3
REFUSED = b"refused" * 4
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="JPEG engines are part of a GPU")


class Codec:
    """The decoder of `media` in place of a GPU's engines; bytes in a file make it refuse."""

    def __call__(self, files: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]], memory: Tensor) -> bool:
        start = 0
        for data, size in zip(files, sizes, strict=True):
            if REFUSED in data.tobytes():
                return False
            pixels = self.pixels(data.tobytes())
            end = start + pixels.size
            if pixels.shape[:2] != size or end > memory.numel():
                return False
            memory[start:end] = torch.from_numpy(pixels.ravel())
            start = end
        return True

    def pixels(self, data: bytes) -> NDArray[np.uint8]:
        """Decode a file."""
        return np.concatenate([*open_frames(io.BytesIO(data), None)])


class Otherwise(Codec):
    """A codec whose chroma is another, and a level off in each value."""

    def pixels(self, data: bytes) -> NDArray[np.uint8]:
        return super().pixels(data) ^ 1


class Nothing(Codec):
    """A codec that decodes nothing."""

    def __call__(self, files: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]], memory: Tensor) -> bool:
        return False


class GpuExecutor(LocalExecutor):
    """A tokenizer on the CPU that is taken for one on a GPU."""

    def __init__(self) -> None:
        self.workplace = Workplace("cuda", "float32", 1, 1)

    def run(self, *arguments: Any) -> None:
        LocalExecutor.run(EXECUTOR, *arguments)


class Watched(JpegDecoder):
    """A decoder that notes for each batch whether it is decoded."""

    batches: ClassVar[list[bool]] = []

    def decode(self, jpegs: Sequence[SourceJpeg]) -> list[SourcePicture] | None:
        pictures = super().decode(jpegs)
        self.batches.append(pictures is not None)
        return pictures


@pytest.fixture(autouse=True)
def engines_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(encoder, "JpegDecoder", Watched)
    monkeypatch.setattr(encoder, "NvJpeg", Codec)
    monkeypatch.setattr(Engine, "resizes_pictures", lambda self: True)
    Watched.batches.clear()
    yield
    nvjpeg.load_library.cache_clear()


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
    with pytest.raises(BulkError, match="codes that differ in --jpeg"):
        tokenize(tmp_path / "usual", folder, GPU, executor=GpuExecutor())


def test_a_run_goes_on_and_is_finished_whichever_device_is_asked_for(
    tokenize: Tokenize, bundle: Path, folder: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "gpu"

    def job() -> Job:
        return Job(Request(folder, dest, bundle, GPU))

    assert job().finished("auto", None) is None
    tokenize(dest, folder, GPU, executor=GpuExecutor())
    assert job().finished("auto", None) is not None
    assert job().finished("cuda", "float32") is not None
    with pytest.raises(BulkError, match="Only a GPU has engines for JPEGs"):
        job().finished("cpu", None)
    (folder / "late.jpg").write_bytes(photo(9))
    assert job().finished("auto", None) is None


def test_readers_decode_what_the_gpu_fails(tokenize: Tokenize, folder: Path, tmp_path: Path) -> None:
    (folder / "plain-1.jpg").write_bytes(marked(photo(1), REFUSED))
    (folder / "plain-lost.jpg").write_bytes(photo(8).replace(b"\xff\xdb", b"\xff\xfe"))  # no tables
    tokenize(tmp_path / "usual", folder, CPU)
    assert tokenize(tmp_path / "gpu", folder, GPU, executor=GpuExecutor()).failed == 2
    assert written(tmp_path / "gpu") == written(tmp_path / "usual")
    assert Watched.batches == [False]


def test_memory_is_used_again_when_nobody_holds_it() -> None:
    resampling = plan(48, 64, (32, 32), "cover", None).resampling(Image.new("RGB", (64, 48)))
    assert resampling is not None

    def jpeg(data: bytes, size: tuple[int, int] = (48, 64)) -> SourceJpeg:
        return SourceJpeg(np.frombuffer(data, np.uint8), size, resampling)

    decoder = JpegDecoder(1, 250 * PICTURE, "cpu", Codec)
    usual = [jpeg(photo(0)), jpeg(photo(1)), jpeg(photo(1))]
    assert decoder.decode([*usual, jpeg(marked(photo(2), REFUSED))]) is None
    assert decoder.decode([*usual, jpeg(photo(2), (64, 48))]) is None
    assert decoder.decode([jpeg(photo(2)) for _ in range(251)]) is None
    places = set()
    for _ in range(10):
        pictures = decoder.decode(usual)
        assert pictures is not None
        for seed, picture in zip((0, 1, 1), pictures, strict=True):
            memory, start, shape = cast("DevicePixels", picture.pixels)
            places.add(memory.data_ptr())
            pixels = memory[start : start + PICTURE].view(shape).numpy()
            assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(photo(seed)))))
    assert len(places) <= 4


def installed_nowhere(package: str) -> None:
    raise nvjpeg.importlib.metadata.PackageNotFoundError(package)


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        (Otherwise, "4:4:4, quality 50, to other pixels"),
        (Nothing, "does not decode a JPEG"),
        (NvJpeg, "which is not installed here. Run pip install"),
    ],
)
def test_the_run_ends_at_once_where_engines_do_not_give_the_pixels(
    tokenize: Tokenize,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: Callable[[], Any],
    said: str,
) -> None:
    monkeypatch.setattr(encoder, "NvJpeg", codec)
    monkeypatch.setattr(nvjpeg.importlib.metadata, "files", installed_nowhere)
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


def test_chroma_may_be_a_level_off_in_one_value_of_a_thousand() -> None:
    class Rounded(Codec):
        share, levels = 2000, 1

        def pixels(self, data: bytes) -> NDArray[np.uint8]:
            pixels = super().pixels(data).copy()
            some = pixels.reshape(-1)[:: self.share]
            some += np.where(some < 128, self.levels, -self.levels).astype(np.uint8)
            return pixels

    JpegDecoder(1, 375 * 500 * 3, "cpu", Rounded)
    for name, value in (("share", 500), ("levels", 2)):
        codec = type("Rounded", (Rounded,), {name: value})
        with pytest.raises(NoJpegEnginesError, match="to other pixels"):
            JpegDecoder(1, 375 * 500 * 3, "cpu", codec)


class NotingLibrary:
    """Functions of nvJPEG that say that all files have 4x3 pixels, and note what is decoded."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.failing = ""
        self.images: list[list[int]] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.called.append(name)
            if name == "nvjpegJpegStreamGetFrameDimensions":
                arguments[1]._obj.value, arguments[2]._obj.value = 4, 3
            if name == "nvjpegDecodeBatched":
                numbers = (ctypes.c_uint64 * (2 * 2 * nvjpeg.CHANNELS)).from_address(arguments[4].value)
                self.images = np.array(numbers).reshape(2, -1).tolist()
            return int(name == self.failing)

        return call


def test_pixels_go_one_after_the_other_and_a_failed_batch_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    library, awaited = NotingLibrary(), list[None]()
    event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: awaited.append(None))
    monkeypatch.setattr(nvjpeg, "load_library", cache(lambda: nvjpeg.Library(library, library)))
    monkeypatch.setattr(torch.cuda, "Stream", lambda priority: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: event)
    codec, memory, file = NvJpeg(), torch.empty(100, dtype=torch.uint8), np.zeros(7, np.uint8)
    batch = [file, file], [(3, 4), (3, 4)], memory
    assert codec(*batch)
    starts, pitches = zip(*((image[0], image[nvjpeg.CHANNELS]) for image in library.images), strict=True)
    assert [start - memory.data_ptr() for start in starts] == [0, 36]
    assert pitches == (12, 12)
    library.failing = "nvjpegDecodeBatched"
    assert not codec(*batch)
    assert len(awaited) == 2
    library.failing = ""
    library.called.clear()
    assert codec(*batch)
    assert "nvjpegDecodeBatchedInitialize" in library.called, "a failed call leaves a state to initialize again"
    assert not codec([file], [(4, 3)], memory)
    assert not codec([file] * 3, [(3, 4)] * 3, memory), "the memory holds two"


@needs_gpu
def test_engines_give_the_pixels_of_media_in_batches_of_any_size() -> None:
    codec, memory = NvJpeg(), torch.empty(70 * PICTURE, dtype=torch.uint8, device="cuda")
    for count in (1, 64, 3, 64, 70):
        files = [np.frombuffer(photo(seed), np.uint8) for seed in range(count)]
        assert codec(files, [(48, 64)] * count, memory)
        found = memory[: count * PICTURE].view(count, 48, 64, 3).cpu().numpy().astype(int)
        for data, pixels in zip(files, found, strict=True):
            difference = np.abs(pixels - np.asarray(Image.open(io.BytesIO(data.tobytes()))))
            assert difference.max() <= 1
            assert difference.mean() <= 0.001


@needs_gpu
def test_engines_refuse_what_was_not_announced() -> None:
    codec, memory = NvJpeg(), torch.empty(4 * PICTURE, dtype=torch.uint8, device="cuda")
    usual, slow = photo(0), io.BytesIO()
    Image.open(io.BytesIO(usual)).save(slow, "JPEG", progressive=True)
    for data in (usual[:100], b"", usual.replace(b"\xff\xdb", b"\xff\xfe"), slow.getvalue(), b"no picture"):
        assert not codec([np.frombuffer(bytes(piece), np.uint8) for piece in (usual, data)], [(48, 64)] * 2, memory)
    plain = np.frombuffer(usual, np.uint8)
    assert not codec([plain], [(64, 48)], memory)
    assert not codec([plain] * 5, [(48, 64)] * 5, memory)
    assert codec([plain], [(48, 64)], memory)


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


def test_a_gpu_needs_no_size(tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photo.jpg").write_bytes(photo(0))
    monkeypatch.setattr(encoder, "Engine", lambda bundles, _, dtype, threads: Engine(bundles, "cpu", dtype, threads))
    executor = LocalExecutor(Workplace("cuda", "float32", 1, 1))
    outcome = tokenize(tmp_path / "codes", tmp_path / "data", EncodingOptions(), executor=executor, kinds=("images",))
    assert outcome.info.rows == {"images": 1}
