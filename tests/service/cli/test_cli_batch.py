"""Many files and folders in one call, standard input and output, and work that was begun before."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.client import read_codes

Omnitok = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, media: Path) -> Path:
    """Media in folders, among files of other kinds, files that are broken, and hidden ones."""
    top = tmp_path / "holiday"
    for path, source in {
        "b.png": "picture.png",
        "a [1].jfif": "picture.png",
        "rome/b.png": "clip.npy",  # the content decides
        "rome/day 1/clip.mov": "clip.mp4",
        ".hidden/c.png": "picture.png",
        ".c.png": "picture.png",
    }.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(media / source, top / path)
    (top / "rome/cut.jpg").write_bytes((media / "clip.mp4").read_bytes()[:300])
    (top / "rome/pointer.png").write_text("version https://git-lfs.github.com/spec/v1")
    (top / "notes.txt").write_text("the picture is nice")
    return top


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


GOOD = {"b.png", "a [1].jfif", "rome/b.png", "rome/day 1/clip.mov"}


@pytest.mark.parametrize("option", ["", "--server {server}"])
def test_a_folder_is_encoded_past_bad_files(omnitok: Omnitok, server: str, folder: Path, option: str) -> None:
    place = option.format(server=server) or "-b {b}/debug"
    run = omnitok(f"encode holiday -o tokens {place}")
    assert run.code == 1
    assert files(Path("tokens")) == {f"{name}.npz" for name in GOOD}
    assert read_codes(Path("tokens/rome/b.png.npz").read_bytes()).meta.size.frames == 11
    listed = run.err.splitlines()
    assert sum(line.startswith("failed ") for line in listed) == 2
    assert any("cut.jpg" in line for line in listed)
    assert any("pointer.png" in line and "Git LFS" in line for line in listed)
    assert "skipped holiday/notes.txt: not a picture or a clip" in listed
    assert listed[-1] == "error: 2 of 6 files failed."
    assert ".hidden" not in run.err
    assert "tokens/a [1].jfif.npz: 1x35x50 pixels" in run.out


def test_a_folder_goes_there_and_back(omnitok: Omnitok, folder: Path) -> None:
    omnitok("encode holiday -o tokens -b {b}/debug --format safetensors")
    assert files(Path("tokens")) == {f"{name}.safetensors" for name in GOOD}
    run = omnitok("decode tokens -o back -b {b}/debug")
    assert (run.code, run.err) == (0, "")
    assert files(Path("back")) == {"b.png", "a [1].jfif.png", "rome/b.png.mp4", "rome/day 1/clip.mov.mp4"}
    assert omnitok("decode tokens -o arrays -b {b}/debug --format npy").code == 0
    with Image.open("back/b.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.load("arrays/b.png.npy")[0])


def test_pipes_and_links_of_a_folder_are_skipped(omnitok: Omnitok, media: Path) -> None:
    Path("odd").mkdir()
    shutil.copy(media / "picture.png", "odd/picture.png")
    Path("odd/gone.png").symlink_to("nowhere.png")
    Path("odd/self").symlink_to(".", target_is_directory=True)
    os.mkfifo("odd/pipe.png")
    run = omnitok("encode odd -o tokens -b {b}/debug")
    assert run.code == 0
    skipped = ["skipped odd/gone.png", "skipped odd/pipe.png", "skipped odd/self"]
    assert [line.split(":")[0] for line in run.err.splitlines()] == skipped
    assert files(Path("tokens")) == {"picture.png.npz"}


def test_a_folder_that_cannot_be_read_fails(omnitok: Omnitok, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "lost+found").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused = {"rome", "lost+found"}
    run = omnitok("inspect holiday -o seen")
    assert run.code == 1
    assert "holiday/rome: Permission denied" in run.out
    assert files(Path("seen")) == {"b.png.npy", "a [1].jfif.npy"}
    assert run.err.splitlines()[-1] == "error: 1 of 3 files failed."
    refused = {"holiday"}  # there is nothing else to work on
    run = omnitok("encode holiday -o tokens -b {b}/debug")
    assert run.code == 1
    assert run.err.splitlines() == ["failed holiday: Permission denied", "error: 1 of 1 files failed."]


def test_files_and_folders_are_reconstructed_into_one(omnitok: Omnitok, folder: Path, media: Path) -> None:
    run = omnitok("reconstruct {m}/animation.gif holiday/rome -b {b}/debug -o copies --side-by-side both --format gif")
    assert run.code == 1
    names = {"animation.gif", "b.png.gif"}
    assert files(Path("copies")) == files(Path("both")) == {*names, "day 1/clip.mov.gif"}
    assert all(name in run.out for name in ("animation.gif", "b.png", "clip.mov", "mean"))
    assert "cut.jpg" not in run.out


def test_all_bad_files_leave_no_file(omnitok: Omnitok, folder: Path) -> None:
    run = omnitok("reconstruct holiday/rome/cut.jpg holiday/rome/pointer.png nowhere.png -b {b}/debug -o copies")
    assert run.code == 1
    assert run.err.splitlines()[-1] == "error: 3 of 3 files failed."
    assert run.out == ""
    assert not Path("copies").exists()


def test_work_goes_on_where_it_stopped(omnitok: Omnitok, folder: Path) -> None:
    omnitok("encode holiday/b.png holiday/rome -o tokens -b {b}/debug")
    Path("tokens/b.png.npz").write_bytes(b"of before")
    (folder / "rome/new.png").write_bytes((folder / "b.png").read_bytes())
    run = omnitok("encode holiday/b.png holiday/rome -o tokens -b {b}/debug --skip-existing")
    assert "skipped holiday/b.png: tokens/b.png.npz is there" in run.err.splitlines()
    # Files of two folders with one name get one place: the second is refused, not written over the first.
    assert Path("tokens/b.png.npz").read_bytes() == b"of before"
    assert [line.split(":")[0] for line in run.out.splitlines()] == ["tokens/new.png.npz"]
    assert omnitok("encode holiday/b.png -o tokens -b {b}/debug").code == 0
    assert Path("tokens/b.png.npz").read_bytes() != b"of before"


def test_two_inputs_of_one_name_are_not_written_over_each_other(omnitok: Omnitok, folder: Path) -> None:
    run = omnitok("encode holiday/b.png holiday/rome/b.png -o tokens -b {b}/debug")
    assert run.code == 1
    assert "failed holiday/rome/b.png: its file tokens/b.png.npz is that of holiday/b.png already" in run.err
    assert read_codes(Path("tokens/b.png.npz").read_bytes()).meta.size.frames == 1


def test_no_input_is_written_over(omnitok: Omnitok, folder: Path) -> None:
    before = (folder / "b.png").read_bytes()
    for line in (
        "holiday/b.png -o holiday",
        "holiday/b.png -o holiday/b.png",
        "holiday/b.png {m}/picture.png -o holiday",
    ):
        assert omnitok(f"reconstruct {line} -b {{b}}/debug").code == 1
    assert (folder / "b.png").read_bytes() == before


def test_a_single_file_goes_into_a_folder_too(omnitok: Omnitok) -> None:
    assert omnitok("encode {m}/picture.png -o new -b {b}/debug").code == 0
    Path("there.npz").mkdir()
    assert omnitok("encode {m}/picture.png -o there.npz -b {b}/debug --format msgpack").code == 0
    assert files(Path()) == {"new/picture.png.npz", "there.npz/picture.png.msgpack"}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("encode seen", {"b.png.npz", "photo.JPEG.npz", "clip.mp4.npz"}),
        ("decode tokens", {"b.png", "photo.JPEG.png", "clip.mp4"}),
        ("decode tokens --format npy", {"b.png.npy", "photo.JPEG.npy", "clip.mp4.npy"}),
        ("reconstruct seen --frames 1 --format jpg", {"b.png.jpg", "photo.JPEG", "clip.mp4.jpg"}),
        ("reconstruct seen", {"b.png", "photo.JPEG.png", "clip.mp4"}),
        ("inspect seen", {"b.png.npy", "photo.JPEG.npy", "clip.mp4.npy"}),
    ],
)
def test_names_are_those_of_the_inputs_for_one_file_as_for_many(
    omnitok: Omnitok, media: Path, command: str, names: set[str]
) -> None:
    Path("seen").mkdir()
    for name, source in (("b.png", "picture.png"), ("photo.JPEG", "picture.png"), ("clip.mp4", "clip.mp4")):
        shutil.copy(media / source, Path("seen", name))
    assert omnitok("encode seen -o tokens -b {b}/debug --size 16").code == 0
    verb, folder, *options = command.split()
    line = " ".join([*options, *([] if verb == "inspect" else ["-b {b}/debug"])])
    for sources, out in ((folder, "many"), *((path, "one") for path in Path(folder).iterdir())):
        run = omnitok(f"{verb} {sources} -o {out} {line}")
        assert run.code == 0, run.err
    assert files(Path("many")) == files(Path("one")) == names


def test_missing_folders_are_made(omnitok: Omnitok) -> None:
    assert omnitok("encode {m}/picture.png -o a/b/x.npz -b {b}/debug").code == 0
    assert omnitok("decode a/b/x.npz -o c/d/x.png -b {b}/debug").code == 0
    assert files(Path()) == {"a/b/x.npz", "c/d/x.png"}


def test_a_server_that_is_gone_ends_the_work_at_once(omnitok: Omnitok, folder: Path) -> None:
    run = omnitok("encode holiday -o tokens --server http://127.0.0.1:9")
    assert run.code == 1
    assert run.err.count("cannot be reached") == 1
    assert run.err.count("\n") == 1


def test_a_window_that_one_clip_lacks_is_that_clips_failure(omnitok: Omnitok, server: str, folder: Path) -> None:
    for place in ("-b {b}/debug", f"--server {server}"):
        run = omnitok(f"encode holiday/rome/'day 1'/clip.mov holiday/b.png -o tokens {place} --start 99")
        assert run.code == 1
        assert run.err.splitlines()[-1] == "error: 1 of 2 files failed."
        assert files(Path("tokens")) == {"b.png.npz"}


def test_a_terminal_is_no_file(omnitok: Omnitok, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    run = omnitok("encode - -o x.npz -b {b}/debug")
    assert (run.code, "terminal" in run.err) == (1, True)


def test_a_model_that_is_not_there_ends_the_work_at_once(omnitok: Omnitok, server: str, folder: Path) -> None:
    run = omnitok(f"encode holiday -o tokens --server {server} --model nothing")
    assert (run.code, run.err.count("unknown-model")) == (1, 1)


def command(*words: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    program = [sys.executable, "-c", "from service.cli import main; main()", *map(str, words)]
    return subprocess.run(program, input=stdin, capture_output=True, timeout=120, check=False)


def test_standard_input_and_output_are_files(bundles: Path, media: Path) -> None:
    place = ("-b", bundles / "debug")
    tokens = command("encode", "-", "-o", "-", *place, stdin=(media / "clip.npy").read_bytes())
    assert tokens.returncode == 0, tokens.stderr
    with np.load(io.BytesIO(tokens.stdout), allow_pickle=False) as archive:
        assert archive["tokens"].shape == (4, 4, 6)
    assert b"11x32x42 pixels" in tokens.stderr
    pixels = command("decode", "-", "-o", "-", "--format", "npy", *place, stdin=tokens.stdout)
    assert np.load(io.BytesIO(pixels.stdout)).shape == (11, 32, 42, 3)


def test_nothing_goes_to_standard_output_when_it_fails(bundles: Path, media: Path) -> None:
    clip = (media / "clip.mp4").read_bytes()
    done = command("reconstruct", "-", "-o", "-", "-b", bundles / "debug", stdin=clip[: len(clip) * 9 // 10])
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"error: standard input: ")
