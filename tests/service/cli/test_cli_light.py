"""Wrong arguments are refused before torch is loaded, which takes seconds."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Runs lines of a file with torch blocked; prints exit codes and standard errors.
PROGRAM = """
import contextlib, io, json, signal, sys
sys.modules["torch"] = None  # importing it fails
from service.cli import main
for words in json.load(sys.stdin):
    sys.argv = ["omnitok", *words]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    print(json.dumps([code, said.getvalue()]))
"""

REFUSED = [
    ("encode nowhere.png -b {b}/debug -o x.npz", "nowhere.png: No such file"),
    ("encode {m}/clip.npy -b {b}/debug -o x.npz --start 1", "--start"),
    ("encode {m}/picture.png -b {b}/nothing -o x.npz", "is not a bundle"),
    ("encode {m}/picture.png -b {b}/lm -o x.npz", "name a tokenizer bundle"),
    ("encode {m}/picture.png -b cut -o x.npz", "model.safetensors is damaged"),
    ("encode {m}/picture.png -b {b}/vae -o x.npz --output tokens", "VAE"),
    ("encode {m}/picture.png -b {b}/debug -o x.txt", "x.txt"),
    ("encode nowhere.png none.png -b {b}/debug -o made", "2 of 2 files failed"),
    ("decode {m}/picture.png -b {b}/debug -o x.png", "not image/png"),
    ("decode nowhere.npz -b {b}/debug -o x.png", "nowhere.npz: No such file"),
    ("reconstruct nowhere.png -b {b}/debug", "nowhere.png"),
    ("reconstruct {m}/clip.mp4 -b {b}/debug -o x.png", "11 frames"),
    ("reconstruct {m}/picture.png -b {b}/debug -o x.png --quality 5", "quality"),
    ("generate -b {b}/lm --class eel -o x.png", "`bee`"),
    ("generate -b {b}/lm --class 9 -o x.png", "from 0 to 3"),
    ("generate -b {b}/debug --class 0 -o x.png", "name a generator bundle"),
    ("generate -b {b}/lm --tokenizer {b}/vae --class 0 -o x.png", "needs the tokenizer"),
    ("generate -b {b}/lm --class 0 --steps 5 -o x.png", "takes no steps"),
    ("generate -b {b}/lm --class 0 --frames 99999 -o x.mp4", "Use fewer frames"),
    ("generate -b {b}/lm --class 0 --image nowhere.png --frames 9 -o x.mp4", "nowhere.png"),
    ("generate -b {b}/lm --class 0 --kind video -o x.png", "one picture"),
    ("generate -b {b}/lm --class 0 -o x.png --quality 5", "quality"),
    ("generate -b {b}/latte --class 0 --steps 1001 -o x.mp4", "--steps"),
    ("tokenize nowhere made -b {b}/debug --size 32", "nowhere"),
    ("tokenize {m} made -b {b}/nothing --size 32", "is not a bundle"),
    ("tokenize {m} made -b {b}/lm --size 32", "name a tokenizer bundle"),
    ("tokenize {m} made -b {b}/vae --size 32 --output tokens", "VAE"),
    ("tokenize {m} made -b {b}/debug --size many", "neither a side nor"),
    ("models -b {m}", "is not a bundle"),
    ("convert nowhere.ckpt x", "nowhere.ckpt: No such file"),
    ("convert {m}/picture.png x --tokenizer {b}/nothing", "is not a bundle"),
    ("train sculpture", "known are demo"),
    ("train debug --data nowhere", "nowhere does not exist"),
    ("train debug --data {m} --stage fifth", "no stage 'fifth'"),
    ("train debug --data {m} --steps 0", "must be positive"),
    ("train debug --data {m} --steps 3 --seconds 3", "in steps or seconds"),
    ("train debug --data {m} --from {b}/lm", "name a tokenizer bundle"),
    ("train debug --data {m} --tokenizer {b}/debug", "takes no --tokenizer"),
    ("train lm-debug --data {m}", "name its bundle with --tokenizer"),
    ("train lm-debug --data {m} --tokenizer {b}/vae", "name a VQ tokenizer"),
    ("train lm-debug --data {m} --tokenizer {b}/debug --from {b}/debug", "takes no --from"),
    ("evaluate {b}/nothing {m}", "is not a bundle"),
    ("evaluate {b}/debug nowhere", "nowhere does not exist"),
    ("evaluate {b}/debug {m} --side 8", "--side"),
    ("evaluate {b}/debug {m} --lpips nowhere.pth", "nowhere.pth does not exist"),
    ("evaluate {b}/lm {m}", "name its bundle with --tokenizer"),
    ("evaluate {b}/lm {m} --tokenizer {b}/vae", "was trained on the tokenizer"),
    ("data build sculptures", "no data set 'sculptures'"),
    ("data codes nowhere --tokenizer {b}/debug --out x", "nowhere does not exist"),
    ("data inspect nowhere", "nowhere does not exist"),
    ("rebind {b}/debug --trained-on {b}/debug --tokenizer {b}/debug", "name a generator bundle"),
]


@pytest.fixture(scope="module")
def answers(bundles: Path, media: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and standard error of each line, from one process that cannot load torch."""
    folder = tmp_path_factory.mktemp("light")
    shutil.copytree(bundles / "debug", folder / "cut")
    (folder / "cut/model.safetensors").write_bytes(b"no weights")
    before = sorted(folder.rglob("*"))
    lines = [[word.format(b=bundles, m=media) for word in shlex.split(line)] for line, _ in REFUSED]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, input=json.dumps(lines), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sorted(folder.rglob("*")) == before
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {line: (code, said) for (line, _), (code, said) in zip(REFUSED, found, strict=True)}


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line[:70] for line, _ in REFUSED])
def test_wrong_arguments_need_no_torch(answers: dict[str, tuple[int, str]], line: str, words: str) -> None:
    code, said = answers[line]
    assert code > 0
    assert words in " ".join(said.replace("│", " ").split()), said
