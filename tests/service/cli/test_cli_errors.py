"""Errors take one sentence on stderr, the right exit code, and leave no file behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

Omnitok = Callable[..., Any]


@pytest.fixture
def broken(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    """A folder of files that are no media."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "nothing").mkdir()
    (folder / "nothing" / ".hidden.png").write_bytes(b"")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.mp4").write_text("this is not a video")
    (folder / "cut.png").write_bytes((media / "picture.png").read_bytes()[:80])
    (folder / "cut.mp4").write_bytes((media / "clip.mp4").read_bytes()[:300])
    np.save(folder / "floats.npy", np.zeros((4, 4, 3), np.float32))
    np.save(folder / "flat.npy", np.zeros((4, 4), np.uint8))
    np.save(folder / "empty.npy", np.zeros((0, 4, 4, 3), np.uint8))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "text.npy").write_text("this is not an array")
    (folder / "tokens.npz").write_bytes(b"PK\x03\x04 this is not an archive")
    torch.save({"state_dict": {}}, folder / "other.ckpt")
    (folder / "text.ckpt").write_text("this is not a checkpoint")
    return folder


REFUSED = [
    ("encode nowhere.png -b {b}/debug -o x.npz", "nowhere.png: No such file"),
    ("encode {broken}/empty.png -b {b}/debug -o x.npz", "0 bytes"),
    ("encode {broken}/text.mp4 -b {b}/debug -o x.npz", "text.mp4"),
    ("encode {broken}/cut.png -b {b}/debug -o x.npz", "cut.png"),
    ("encode {broken}/cut.mp4 -b {b}/debug -o x.npz", "cut.mp4"),
    ("encode {broken}/floats.npy -b {b}/debug -o x.npz", "float32"),
    ("encode {broken}/flat.npy -b {b}/debug -o x.npz", "(4, 4)"),
    ("encode {broken}/empty.npy -b {b}/debug -o x.npz", "(0, 4, 4, 3)"),
    ("encode {broken}/objects.npy -b {b}/debug -o x.npz", "objects.npy"),
    ("encode {broken}/text.npy -b {b}/debug -o x.npz", "text.npy"),
    ("encode {m}/clip.npy -b {b}/debug -o x.npz --start 1", "--start"),
    ("encode {m}/clip.mp4 -b {b}/debug -o x.npz --start 99", "No frame"),
    ("encode {m}/picture.png -b {b}/nothing -o x.npz", "is not a bundle"),
    ("encode {m}/picture.png -b {m} -o x.npz", "is not a bundle"),
    ("encode {m}/picture.png -b {b}/vae -o x.npz --output tokens", "VAE"),
    ("decode {m}/picture.png -b {b}/debug -o x.png", "not image/png"),
    ("decode {broken}/tokens.npz -b {b}/debug -o x.png", "tokens.npz is no"),
    ("decode clip.npz -b {b}/debug -o x.png", "11 frames"),
    ("decode clip.npz -b {b}/whole -o x.mp4", "made by bundle"),
    ("reconstruct {m}/clip.mp4 -b {b}/debug -o x.png", "11 frames"),
    ("reconstruct nowhere.png -b {b}/debug", "nowhere.png"),
    ("encode {m}/picture.png -b {b}/debug -o clip.npz/x.npz", "clip.npz is a file"),
    ("reconstruct {m}/picture.png -b {b}/debug -o x.png --quality 5", "quality"),
    ("decode clip.npz -b {b}/debug -o x.mp4 --frames 99", "grid"),
    ("encode - - -b {b}/debug -o x", "once"),
    ("encode {broken}/nothing -b {b}/debug -o x", "no file that is a picture or a clip"),
    ("models -b {m}", "is not a bundle"),
    ("models --server http://127.0.0.1:9", "127.0.0.1:9 cannot be reached: Connection refused. Check"),
    ("models --server nowhere", "error: nowhere is not the address of a service: it must begin with http://"),
    ("models --server 127.0.0.1:9", "error: 127.0.0.1:9 is not the address of a service: it must begin with http://"),
    ("convert {broken}/text.ckpt x", "text.ckpt is not a checkpoint of PyTorch."),
    ("convert {broken}/other.ckpt x", "other.ckpt"),
    ("convert nowhere.ckpt x", "nowhere.ckpt"),
    ("serve --port 99999", "port=99999: It must be at most 65535."),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line[:60] for line, _ in REFUSED])
def test_one_sentence_and_nothing_written(omnitok: Omnitok, broken: Path, line: str, words: str) -> None:
    assert omnitok("encode {m}/clip.npy -b {b}/debug -o clip.npz").code == 0
    run = omnitok(line, broken=broken)
    assert run.code == 1
    assert run.err.startswith("error: ")
    assert run.err.count("\n") == 1
    assert words in run.err
    assert sorted(path.name for path in Path().iterdir()) == ["clip.npz"]


@pytest.mark.parametrize(("name", "value"), [("bundles", "bundles/demo-vq"), ("warm_sizes", "[[1]]")])
def test_settings_that_cannot_be_read_are_named(
    omnitok: Omnitok, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"OMNITOK_{name.upper()}", value)
    for line in ("serve", "generate -b {b}/lm --tokenizer {b}/debug --class 0 -o made.png"):
        run = omnitok(line)
        assert (run.code, run.err.count("\n")) == (1, 1)
        assert name in run.err


USAGE = [
    ("encode {m}/picture.png -b {b}/debug", "--out"),
    ("encode {m}/picture.png -b {b}/debug -o x.txt", "x.txt"),
    ("encode {m}/picture.png -b {b}/debug -o x.npz --size 0", "--size"),
    ("encode {m}/picture.png -b {b}/debug -o x.npz --size 8x8x8", "--size"),
    ("encode {m}/picture.png -b {b}/debug -o x.npz --fit squeeze", "squeeze"),
    ("encode {m}/clip.mp4 -b {b}/debug -o x.npz --frames 0", "'--frames': It must be 1 to 1048576, not 0."),
    ("encode {m}/clip.mp4 -b {b}/debug -o x.npz --frames few", "'--frames': It must be a whole number, not few."),
    ("tokenize {m} made --frames 0", "'--frames': It must be at least 1, not 0."),
    ("jobs list --limit 101 --server http://127.0.0.1:9", "--limit': It must be 1 to 100, not 101."),
    ("reconstruct {m}/clip.mp4 -b {b}/debug -o x.mp4 --fps 0", "--fps: It must be at least 0.1, not 0.0."),
    ("encode {m}/clip.mp4 -b {b}/debug -o x.npz --stride 2", "--stride"),
    ("encode {m}/clip.mp4 -b {b}/debug -o x.npz --start 2 --end 1", "--end-s"),
    ("encode {m}/clip.mp4 -b {b}/debug -o x.npz --end 0", "--end-s"),
    ("encode {m}/picture.png -b {b}/debug --server http://127.0.0.1:9 -o x.npz", "--bundle"),
    ("encode {m}/picture.png --model debug -o x.npz", "--model"),
    ("decode x.npz -b {b}/debug -o x.bmp", "x.bmp"),
    ("reconstruct {m}/picture.png {m}/clip.mp4 -b {b}/debug --out x.npy", "--out"),
    ("encode {m} -b {b}/debug -o x.npz", "name a folder"),
    ("encode {m}/picture.png {m}/clip.mp4 -b {b}/debug -o -", "name a folder"),
    ("encode {m}/picture.png -b {b}/debug -o x.npz --format safetensors", "--format"),
    ("encode {m}/picture.png -b {b}/debug -o x --format png", "--format"),
    ("decode x.npz -b {b}/debug -o x.jpg --quality 0", "--quality"),
    ("transcode x", "transcode"),
]


@pytest.mark.parametrize(("line", "words"), USAGE, ids=[line[:60] for line, _ in USAGE])
def test_wrong_usage_is_exit_code_two(omnitok: Omnitok, line: str, words: str) -> None:
    run = omnitok(line)
    assert run.code == 2
    assert words in run.err
    assert not list(Path().iterdir())


def test_an_old_file_survives_a_failure(omnitok: Omnitok) -> None:
    Path("x.png").write_bytes(b"the old file")
    omnitok("encode {m}/clip.npy -b {b}/debug -o clip.npz")
    assert omnitok("decode clip.npz -b {b}/debug -o x.png").code == 1
    assert Path("x.png").read_bytes() == b"the old file"


def test_a_failure_while_writing_leaves_nothing(omnitok: Omnitok, media: Path, tmp_path: Path) -> None:
    clip = (media / "clip.mp4").read_bytes()
    Image.new("RGB", (8, 8)).save("x.png")
    Path("cut.mp4").write_bytes(clip[: len(clip) * 9 // 10])
    before = sorted(tmp_path.iterdir())
    run = omnitok("reconstruct cut.mp4 -b {b}/debug --out y.mp4 --side-by-side z.mp4")
    assert run.code == 1
    assert sorted(tmp_path.iterdir()) == before


def test_closed_streams_are_open_in_what_a_command_starts(tmp_path: Path) -> None:
    look = 'for n in 0 1 2; do seen="$seen $(readlink /proc/$$/fd/$n)"; done; echo $seen > seen'
    code = f"import os; from service.cli import app; app._open_closed_streams(); os.system({look!r})"
    command = ["sh", "-c", 'cd "$0" && exec "$1" -c "$2" <&- >&- 2>&-', str(tmp_path), sys.executable, code]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert (tmp_path / "seen").read_text().split() == 3 * ["/dev/null"]


def test_the_module_of_the_command_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "service.cli.app", "serve", "--port", "none"], capture_output=True)
    assert done.returncode == 2
