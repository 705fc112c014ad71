"""Folders, tar shards and labels: what is found, what is named in an error, and that shards equal folders."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from media.errors import MediaError
from media.types import SampleWindow
from training.cli.data import data as command
from training.data.files import FileSection, PackedNames, Source, find_files, find_sources
from training.demo_data.debug import build_debug
from training.demo_data.demo import DATA_SETS
from training.errors import TrainingError

CLI = CliRunner()
SAMPLES = Path(__file__).parents[2] / "docs" / "samples"


def put(root: Path, *names: str) -> Path:
    """Files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def pack(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def images(root: Path) -> Source:
    found = find_files(root).images
    assert found is not None
    return found


def listed(source: Source) -> dict[str, tuple[bytes, str | None]]:
    """Name, bytes and class of every item."""
    rows = {}
    for index in range(len(source)):
        with source.open(index) as file:
            label = source.classes[source.labels[index]] if source.classes else None
            rows[source.names[index]] = file.read(), label
    return rows


def test_kinds_are_told_by_suffix_and_classes_by_the_first_folder(tmp_path: Path) -> None:
    put(
        tmp_path,
        "cat/1.jpg",
        "cat/deep/2.PNG",
        "dog/3.jpeg",
        "dog/run.mp4",
        "dog/notes.txt",
        ".hidden/4.jpg",
        "dog/._3.jpg",
    )
    found = find_files(tmp_path)
    assert found.images is not None
    assert found.clips is not None
    assert listed(found.images) == {
        "cat/1.jpg": (b"cat/1.jpg", "cat"), "cat/deep/2.PNG": (b"cat/deep/2.PNG", "cat"),
        "dog/3.jpeg": (b"dog/3.jpeg", "dog"),
    }  # fmt: skip
    assert listed(found.clips) == {"dog/run.mp4": (b"dog/run.mp4", "dog")}
    assert found.images.place(0) == str(tmp_path / "cat/1.jpg")


def test_files_in_the_top_folder_have_no_class(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "cat/2.jpg")
    assert images(tmp_path).classes == ()
    assert len(images(tmp_path).labels) == 0


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "1.jpg")
    put(tmp_path / "data", "dog/2.jpg")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog" / "loop").symlink_to(tmp_path / "data")
    assert set(listed(images(tmp_path / "data"))) == {"cat/1.jpg", "dog/2.jpg"}


def test_shards_equal_the_folder_however_they_are_cut(tmp_path: Path) -> None:
    names = [f"{kind}/{number:02d}.jpg" for kind in ("cat", "dog") for number in range(7)]
    put(tmp_path / "folder", *names)
    for number in range(3):
        pack(tmp_path / "shards" / f"{number}.tar", *((name, name.encode()) for name in names[number::3]))
    folder, shards = images(tmp_path / "folder"), images(tmp_path / "shards")
    assert list(listed(folder).items()) == list(listed(shards).items())
    assert folder.classes == shards.classes
    assert pickle.loads(pickle.dumps(shards)).place(3) == str(tmp_path / "shards" / "0.tar" / "cat" / "03.jpg")


def test_webdataset_labels_are_read(tmp_path: Path) -> None:
    samples = [(f"{number:04d}", label) for number, label in enumerate((3, 10, 3, 0))]
    pack(
        tmp_path / "a.tar",
        *(
            member
            for key, label in samples
            for member in ((f"{key}.jpg", key.encode()), (f"{key}.cls", b"%d\n" % label))
        ),
    )
    source = images(tmp_path)
    assert source.classes == ("0", "3", "10")  # numbers count as numbers
    assert [label for _, label in listed(source).values()] == ["3", "10", "3", "0"]
    pack(tmp_path / "b.tar", ("0009.jpg", b"x"))
    with pytest.raises(TrainingError, match=r"1 files have no label in the shards: '0009\.jpg' is the first"):
        find_files(tmp_path)


def test_a_damaged_shard_is_used_up_to_the_damage(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", *((f"{number}.jpg", bytes(2000)) for number in range(5)))
    path.write_bytes(path.read_bytes()[:6000])
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "c.tar").write_bytes(b"")
    found = find_files(tmp_path)
    assert found.images is not None
    assert len(found.images) == 2
    assert [Path(place).name for place, _ in found.images.damaged] == ["a.tar", "b.tar", "c.tar"]


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.tar.gz")
    with pytest.raises(TrainingError, match=r"a\.tar\.gz is compressed"):
        find_files(tmp_path)


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg", "lost+found/3.jpg")
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused = {"lost+found"}
    assert images(tmp_path).classes == ("a", "b")
    refused = {"a"}
    with pytest.raises(PermissionError, match=r"Permission denied: .*a'"):
        find_files(tmp_path)


def test_a_table_names_the_classes(tmp_path: Path) -> None:
    """Lines end as on any system, and not at other characters that separate lines."""
    put(tmp_path, "x/1.jpg", "x/2\u2028\x85.jpg", "y/3.mp4", "z/4\n.jpg")
    rows = ["path,label", "x/1.jpg,sea", '"x/2\u2028\x85.jpg","sky, cloudy"', "", "y/3.mp4,sea", '"z/4\n.jpg",sky']
    (tmp_path / "labels.csv").write_bytes("\r\n".join(rows).encode())
    found = find_files(tmp_path)
    assert found.images is not None
    assert found.clips is not None
    assert [label for _, label in listed(found.images).values()] == ["sea", "sky, cloudy", "sky"]
    assert [label for _, label in listed(found.clips).values()] == ["sea"]
    (tmp_path / "labels.csv").rename(tmp_path / "labels.tsv")
    (tmp_path / "z" / "4\n.jpg").unlink()
    (tmp_path / "labels.tsv").write_text("x/1.jpg\tsea\nx/2\u2028\x85.jpg\tsky\ny/3.mp4\tsea\n")
    assert images(tmp_path).classes == ("sea", "sky")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('1.jpg,"' + 40_000 * "2.jpg,b\n", r"labels\.csv cannot be read as text: field larger"),  # a quote too many
        ("1.jpg,a\n2.jpg,b\nghost.jpg,a\n", r"labels\.csv, line 3: there is no image or video 'ghost\.jpg'"),
        ("path,label\n1.jpg,a\n2.jpg\n", r"line 3: two columns are wanted, path and label, not 1: \['2\.jpg'\]"),
        ("1.jpg,a\n2.jpg,b,c\n", "line 2: two columns are wanted, path and label, not 3"),
        ("1.jpg,a\n2.jpg, \n", r"line 2: '2\.jpg' has the empty label ' '"),
        ("1.jpg,a\n2.jpg,b\n1.jpg,b\n", r"line 3: '1\.jpg' has the label 'b', but 'a' in a line above"),
        ("1.jpg,a\n", r"1 files have no label in labels\.csv: '2\.jpg' is the first"),
        (b"\xff\xfe\x00", r"labels\.csv cannot be read as text"),
    ],
)
def test_wrong_labels_are_named_with_line_and_value(tmp_path: Path, text: str | bytes, words: str) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "labels.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(TrainingError, match=words) as caught:
        find_files(tmp_path)
    assert "\n" not in str(caught.value)


def test_two_tables_are_one_too_many(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "labels.csv", "labels.tsv")
    with pytest.raises(TrainingError, match=r"both labels\.csv and labels\.tsv"):
        find_files(tmp_path)


@given(st.lists(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=12), max_size=30))
def test_names_are_kept(names: list[str]) -> None:
    kept = PackedNames(names)
    assert [kept[index] for index in range(len(kept))] == names


def test_names_of_no_encoding_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).touch()
    assert images(tmp_path).names[0] == name


@given(st.binary(max_size=60), st.data())
def test_a_section_reads_as_the_part_itself(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, draw: st.DataObject
) -> None:
    offset = draw.draw(st.integers(0, len(data)))
    size = draw.draw(st.integers(0, len(data) - offset))
    path = tmp_path_factory.mktemp("section") / "file"
    path.write_bytes(data)
    ours, truth = FileSection(path, offset, size), io.BytesIO(data[offset : offset + size])
    for _ in range(draw.draw(st.integers(1, 6))):
        if draw.draw(st.booleans()):
            count = draw.draw(st.integers(0, 70))
            assert ours.read(count) == truth.read(count)
        else:
            place, whence = draw.draw(st.integers(0, 70)), draw.draw(st.sampled_from([0, 1, 2]))
            assert ours.seek(place, whence) == truth.seek(place, whence)
    ours.close()


def test_sources_of_a_folder(tmp_path: Path, files: Path) -> None:
    found = find_sources(files)
    assert [len(source) for source in found if source] == [12, 6]
    assert [source.classes for source in found if source] == [("sky", "snow"), ("backward", "forward")]
    both = put(tmp_path / "both", "clips/1.mp4", "videos/2.mp4")
    with pytest.raises(TrainingError, match="both clips/ and videos/"):
        find_sources(both)
    mixed = find_sources(put(tmp_path / "mixed", "1.jpg", "2.mp4"))
    assert [source is not None for source in mixed] == [True, True]
    only = find_sources(put(tmp_path / "only", "videos/1.mp4", "images/notes.txt"))
    assert [source is not None for source in only] == [False, True]


@pytest.mark.parametrize("name", ["nowhere", "empty", "texts"])
def test_folders_without_data_are_told_of(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "texts", "1.txt", "2.doc")
    words = "does not exist" if name == "nowhere" else "holds no data"
    with pytest.raises(TrainingError, match=words):
        find_sources(tmp_path / name)
    result = CLI.invoke(command, ["inspect", str(tmp_path / name)])
    assert result.exit_code == 1
    assert words in result.output


@pytest.mark.parametrize("name", [*DATA_SETS, "debug"])
def test_missing_data_that_a_command_builds_are_told_of_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match=f"does not exist: `omnitok data build {name}` makes it"):
        find_files(Path("data") / name)


def test_debug_data_is_built_and_inspected(tmp_path: Path) -> None:
    root = tmp_path / "debug"
    assert CLI.invoke(command, ["build", "debug", "--out", str(root)]).exit_code == 0
    (root / "images" / "sky" / "words.jpg").write_text("I am a text file")
    (root / "clips" / "forward" / "empty.mp4").touch()
    result = CLI.invoke(command, ["inspect", str(root), "--workers", "1"])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    for words in (
        "files │ 13",
        "files │ 7",
        "sky │ 7",
        "forward │ 4",
        "broken │ 1",
        "The file is empty",
        "1.75",
        "accepted are image/png",
    ):
        assert words in text, words
    for path in (root / "clips").rglob("*.mp4"):
        path.write_bytes(b"")
    result = CLI.invoke(command, ["inspect", str(root), "--workers", "1"])
    assert result.exit_code == 1
    assert "None of 7 clips" in result.output


def test_debug_data_needs_the_samples(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"lacks igloo\.jpg, igloo\.png, flight\.mp4"):
        build_debug(tmp_path / "out", tmp_path)


def test_built_sets_are_inspected_by_their_lists(data: Path) -> None:
    result = CLI.invoke(command, ["inspect", str(data)])
    assert result.exit_code == 0
    assert "train/procgen-128" in result.output


def test_items_are_read_as_squares(tmp_path: Path) -> None:
    line = np.arange(192, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(line, (64, 192)).copy()).save(tmp_path / "line.png")
    source = images(tmp_path)
    assert source.read(0, 64, 17).pixels.shape == (1, 64, 64, 3)  # an image has one frame
    for place in (0.0, 0.5, 1.0):
        made = source.read(0, 64, 1, SampleWindow(crop_position=place)).pixels
        assert np.array_equal(made, np.broadcast_to(line[int(128 * place) :][:64, None], (1, 64, 64, 3)))


def test_an_animated_image_shows_its_first_frame(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    first.save(tmp_path / "a.png", save_all=True, append_images=[second], duration=100)
    assert (images(tmp_path).read(0, 16, 1).pixels == (255, 0, 0)).all()


def png_header(side: int) -> bytes:
    """A PNG that says how large it is and holds nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "The file is empty"),
        (b"hello, I am a text file", "accepted are"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut off"),
        (png_header(20_000), "too-many-pixels"),
    ],
)
def test_damaged_items_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises((TrainingError, MediaError), match=reason):
        images(tmp_path).read(0, 32, 1)


def test_a_clip_with_the_name_of_an_image_is_refused(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "flight.mp4", tmp_path / "flight.png")
    with pytest.raises(TrainingError, match="The file is a clip, and its name says otherwise"):
        images(tmp_path).read(0, 32, 1)
