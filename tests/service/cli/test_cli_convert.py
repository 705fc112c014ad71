"""`omnitok convert`: published checkpoints become bundles that work, and hostile ones run nothing."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from model.convert.safe_load import read_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
Omnitok = Callable[..., Any]


@pytest.mark.parametrize("name", ["vq_rope_casual", "vae_rope"])
def test_a_converted_checkpoint_encodes_and_decodes(omnitok: Omnitok, name: str) -> None:
    run = omnitok("convert {golden}/{name}.ckpt bundle", golden=GOLDEN, name=name)
    assert run.code == 0
    assert "left out" in run.out
    assert " 1 tensors" not in run.out
    assert omnitok("encode {m}/clip.npy -b bundle -o t.npz").code == 0
    assert omnitok("decode t.npz -b bundle -o back.npy").code == 0
    assert np.load("back.npy").shape == (11, 32, 42, 3)
    assert "whole clips" in omnitok("models -b bundle").out


def test_the_additive_biases_are_kept_on_demand(omnitok: Omnitok) -> None:
    assert omnitok("convert {golden}/vq_rel_nosdpa.ckpt with --additive-bias", golden=GOLDEN).code == 0
    assert omnitok("convert {golden}/vq_rel_nosdpa.ckpt without", golden=GOLDEN).code == 0
    for name in ("with", "without"):
        assert omnitok(f"encode {{m}}/picture.png -b {name} -o {name}.npz --output latents").code == 0
    one, other = (np.load(f"{name}.npz")["latents"] for name in ("with", "without"))
    assert not np.allclose(one, other)


def test_a_language_model_names_its_tokenizer_and_its_classes(omnitok: Omnitok) -> None:
    run = omnitok("convert {golden}/lm_class.ckpt lm", golden=GOLDEN)
    assert run.code == 1
    assert "carries no tokenizer" in run.err
    assert omnitok("convert {golden}/vq_rope.ckpt vq", golden=GOLDEN).code == 0
    Path("names.txt").write_text("\n".join(f"class {letter}" for letter in "abcdefghij"))
    run = omnitok("convert {golden}/lm_class.ckpt lm --tokenizer vq --classes names.txt", golden=GOLDEN)
    assert (run.code, run.err) == (0, "")
    assert "lm: 41 tensors, hash" in run.out
    assert "left out 3 tensors: causal mask" in run.out
    assert json.loads(Path("lm/classes.json").read_text())[9] == "class j"
    hash_of_tokenizer = json.loads(Path("vq/config.json").read_text())["hash"]
    assert json.loads(Path("lm/config.json").read_text())["tokenizer_hash"] == hash_of_tokenizer


class Payload:
    """Pickles to a call that leaves a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_hostile_pickle_is_refused_and_does_not_run(omnitok: Omnitok, zipped: bool) -> None:
    data = pickle.dumps({"state_dict": {}, "hyper_parameters": {"args": Payload()}})
    if zipped:
        with zipfile.ZipFile("evil.ckpt", "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")
    else:
        Path("evil.ckpt").write_bytes(data)
    run = omnitok("convert evil.ckpt bundle")
    assert run.code == 1
    assert run.err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["evil.ckpt"]


def test_what_a_download_left_is_named(omnitok: Omnitok) -> None:
    Path("model.ckpt").write_bytes(b"<!DOCTYPE html><html>Sign in to download</html>")
    run = omnitok("convert model.ckpt bundle")
    assert run.code == 1
    assert "model.ckpt is a web page" in run.err
    assert run.err.count("\n") == 1
    assert not Path("bundle").exists()


def attribute_dict(module: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a class as Lightning has it, where a pickle would look for it."""

    class AttributeDict(dict[str, Any]):
        def __getattr__(self, key: str) -> Any:
            try:
                return self[key]
            except KeyError as error:
                raise AttributeError(key) from error

        def __setattr__(self, key: str, value: Any) -> None:
            self[key] = value

    AttributeDict.__module__, AttributeDict.__qualname__ = module, "AttributeDict"
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        found = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, found)
        if length > 1:
            setattr(sys.modules[".".join(parts[: length - 1])], parts[length - 1], found)
    sys.modules[module].AttributeDict = AttributeDict  # type: ignore[attr-defined]
    return AttributeDict


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "module",
    [
        "lightning_fabric.utilities.data",
        "lightning.fabric.utilities.data",
        "pytorch_lightning.utilities.parsing",
        "lightning.pytorch.utilities.parsing",
    ],
)
def test_hyper_parameters_of_lightning_are_plain_values(
    omnitok: Omnitok, monkeypatch: pytest.MonkeyPatch, module: str, old_format: bool
) -> None:
    checkpoint = read_checkpoint(GOLDEN / "vq_rope_casual.ckpt")
    with monkeypatch.context() as installed:
        kind = attribute_dict(module, installed)
        args = Namespace(**vars(checkpoint["hyper_parameters"]["args"]))
        checkpoint["hyper_parameters"] = kind(args=args, nested=kind(depth=2))
        torch.save(checkpoint, "own.ckpt", _use_new_zipfile_serialization=not old_format)
        hyper = read_checkpoint("own.ckpt")["hyper_parameters"]  # plain although the class can be found
    assert (type(hyper), type(hyper["nested"]), hyper["nested"]) == (dict, dict, {"depth": 2})
    run = omnitok("convert own.ckpt bundle")
    assert (run.code, run.err) == (0, "")
    assert "tensors, hash" in run.out


def test_a_payload_among_lightnings_hyper_parameters_does_not_run(
    omnitok: Omnitok, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = attribute_dict("lightning_fabric.utilities.data", monkeypatch)
    torch.save({"state_dict": {}, "hyper_parameters": kind(args=Payload())}, "evil.ckpt")
    run = omnitok("convert evil.ckpt bundle")
    assert run.code == 1
    assert "refused: The checkpoint would" in run.err
    assert [path.name for path in Path().iterdir()] == ["evil.ckpt"]
