"""`omnitok convert`: published checkpoints become bundles that work, and hostile ones run nothing."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden"
Omnitok = Callable[..., Any]


@pytest.mark.parametrize("name", ["vq_rope_casual", "vae_rope"])
def test_a_converted_checkpoint_encodes_and_decodes(omnitok: Omnitok, name: str) -> None:
    run = omnitok("convert {golden}/{name}.ckpt bundle", golden=GOLDEN, name=name)
    assert run.code == 0
    assert "left out" in run.out
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
