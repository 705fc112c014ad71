"""Reading a checkpoint runs nothing, and what is not a checkpoint is refused in one sentence."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from golden_models import GOLDEN

from model.convert.safe_load import CheckpointError, read_checkpoint


class Calls:
    """Pickles into a call of any function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Foreign:
    """A class of somebody else's; pickle makes its instances without calling it."""


def payloads(marker: Path) -> dict[str, object]:
    code = f"open({str(marker)!r}, 'w').write('ran')"
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "builtins.eval": Calls(eval, code),
        "builtins.exec": Calls(exec, code),
        "subprocess": Calls(subprocess.call, ["touch", str(marker)]),
        "getattr": Calls(getattr, str, "upper"),
        "import": Calls(builtins.__import__, "os"),
        "open": Calls(open, str(marker), "w"),
        "instance": Foreign(),
        "torch.load": Calls(torch.load, str(marker)),
    }


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", ["top", "namespace", "state"])
@pytest.mark.parametrize("kind", list(payloads(Path("x"))))
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, kind, where, old_format):
    marker = tmp_path / "ran"
    payload = payloads(marker)[kind]
    checkpoint: dict = {"state_dict": {"w": torch.zeros(2)}, "hyper_parameters": {"args": Namespace(heads=2)}}
    if where == "top":
        checkpoint["callbacks"] = payload
    elif where == "namespace":
        checkpoint["hyper_parameters"]["args"].extra = payload
    else:
        checkpoint["state_dict"]["evil"] = payload
    file = tmp_path / "evil.ckpt"
    torch.save(checkpoint, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(CheckpointError, match="refused: The checkpoint would") as caught:
        read_checkpoint(file)
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def write_pickle(opcodes: tuple[bytes, ...], file: Path) -> None:
    """A zip as torch writes it, around a pickle written by hand, as an attacker would."""
    data = b"\x80\x02" + b"".join(opcodes) + b"."
    torch.save({"epoch": 1}, file)
    with zipfile.ZipFile(file) as archive:
        names = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)


NAMESPACE = b"cargparse\nNamespace\n"
ONE_ATTRIBUTE = b"}U\x01aK\x07s"  # {"a": 7}


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        ((NAMESPACE, ONE_ATTRIBUTE, b"b"), "but got <class 'type'>"),
        ((b"ctorch._utils\n_rebuild_tensor_v2\n", ONE_ATTRIBUTE, b"b"), "but got <class 'function'>"),
        ((NAMESPACE, b")\x81", b"N", ONE_ATTRIBUTE, b"\x86b"), "would change an argparse.Namespace"),
        ((NAMESPACE, b")\x81", b"}U\x0c__setstate__K\x07s", b"b"), "would change an argparse.Namespace"),
        ((b"cos\nsystem\n", ONE_ATTRIBUTE, b"b"), "would load os.system"),
        ((b"cpathlib\nPath\n", ONE_ATTRIBUTE, b"b"), "but got <class 'type'>"),
    ],
    ids=["a class", "a function", "slots", "a method", "a blocked module", "a foreign class"],
)
def test_nothing_of_this_process_is_changed(tmp_path, opcodes, message):
    file = tmp_path / "evil.ckpt"
    write_pickle(opcodes, file)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(file)
    assert not hasattr(Namespace, "a")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "a")


def test_state_dicts_keep_their_attributes(tmp_path):
    file = tmp_path / "state.ckpt"
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict(), "args": Namespace(a=1)}, file)
    read = read_checkpoint(file)
    assert read["state_dict"]._metadata[""] == {"version": 1}
    assert read["args"] == Namespace(a=1)


class Program(torch.nn.Module):
    """A scripted module that touches a file when it is made."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.from_file(self.path, True, 4)

    def forward(self) -> int:
        return 1


def test_a_scripted_module_is_refused_and_does_not_run(tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "program.ckpt"
    torch.jit.save(torch.jit.script(Program(str(marker))), file)
    marker.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="torchscript checkpoint"):
        read_checkpoint(file)
    assert not marker.exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.FIFOTYPE], ids=["link", "pipe"])
def test_tar_archives_are_refused_unread(tmp_path, kind):
    file = tmp_path / "old.ckpt"
    with tarfile.open(file, "w") as archive:
        member = tarfile.TarInfo("storages")
        member.type, member.linkname = kind, str(tmp_path / "secret")
        archive.addfile(member)
    with pytest.raises(CheckpointError, match=r"legacy \.tar format"):
        read_checkpoint(file)


def test_names_of_classes_are_harmless(tmp_path):
    file = tmp_path / "callbacks.ckpt"
    torch.save({"callbacks": {Path: {"best": 1.0}}}, file)
    (key,) = read_checkpoint(file)["callbacks"]
    assert key is not Path
    assert (key.__module__, key.__name__) == ("pathlib", "Path")


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "legacy"])
def test_plain_checkpoints_are_read_whole(tmp_path, old_format):
    file = tmp_path / "good.ckpt"
    tensors = {"f": torch.randn(3, 4), "h": torch.randn(2).half(), "i": torch.arange(5), "t": torch.randn(4, 3).T}
    torch.save({"state_dict": tensors, "epoch": 3}, file, _use_new_zipfile_serialization=not old_format)
    read = read_checkpoint(file)
    assert read["epoch"] == 3
    assert all(torch.equal(read["state_dict"][key], value) for key, value in tensors.items())


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


BROKEN = {
    "empty": lambda good: b"",
    "text": lambda good: b"this is not a checkpoint",
    "picture": lambda good: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "half": lambda good: cut(good, 0.5),
    "nearly whole": lambda good: cut(good, 0.999),
    "first bytes": lambda good: good[:100],
    "bare pickle": lambda good: pickle.dumps([1, 2, 3]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_get_one_sentence(tmp_path, kind):
    file = tmp_path / "broken.ckpt"
    file.write_bytes(BROKEN[kind]((GOLDEN / "vq_rope_casual.ckpt").read_bytes()))
    with pytest.raises(CheckpointError, match=r"broken\.ckpt") as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"# notes\n", b"this is not one", b"\x89PNG\r\n\x1a\n"])
def test_what_torch_cannot_have_written_is_no_checkpoint(tmp_path, content):
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"notes\.txt is not a checkpoint of PyTorch\.$"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in to download</html>", "a web page"),
        (b"\xef\xbb\xbf\r\n  <HTML lang=en><body>Quota exceeded", "a web page"),
        (b"<?xml version='1.0'?>\n<!-- saved -->\n<!doctype HTML>", "a web page"),
    ],
    ids=["pointer", "page", "capitals", "prolog"],
)
def test_what_a_download_left_is_named(tmp_path, content, found):
    (tmp_path / "model.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.ckpt is {found}.*; (run|download) ") as caught:
        read_checkpoint(tmp_path / "model.ckpt")
    assert "\n" not in str(caught.value)


def test_other_archives_get_one_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("hello.txt", "hi")
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        read_checkpoint(tmp_path / "a.zip")


def test_a_missing_file_gets_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.ckpt")


def test_a_tensor_alone_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "t.pt")
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        read_checkpoint(tmp_path / "t.pt")
