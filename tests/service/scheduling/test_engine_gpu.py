"""The engine on a GPU, where there is one: what warm-up did not foresee is answered at once, and by kernels later."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.runtime import jit
from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.late_kernels import LateKernels
from service.engine.tokenizer import Engine
from service.types import TokenizerKey

FAR = 240.0  # seconds; a kernel takes up to a tenth of it

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels run on a GPU")


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, LateKernels]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kernels"))
    torch.manual_seed(0)
    save_bundle(tmp_path / "published", OmniTokenizer(CONFIGS["published"]).eval(), card="Random weights for tests.")
    late = LateKernels()
    engine = Engine([tmp_path / "published"], "cuda", "float32", 1)
    engine.warm_up([(1, 64, 64)], 1024, 4)
    late.mark_ready()
    return engine, late


def test_unforeseen_shapes_wait_for_no_compiler(
    warm: tuple[Engine, LateKernels], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, kernels = warm
    from triton.runtime import JITFunction

    gate, preload = threading.Event(), JITFunction.preload
    monkeypatch.setattr(JITFunction, "preload", lambda self, kernel: gate.wait(FAR) and preload(self, kernel))
    assert kernels.count == 0
    name = engine.cards[0].id
    pixels = np.random.default_rng(0).integers(0, 256, (29, 40, 56, 3), np.uint8)
    [(tokens, vectors)] = engine.run(TokenizerKey(name, "encode", "pixels", (29, 40, 56)), [pixels])
    [frames] = engine.run(TokenizerKey(name, "decode", "tokens", (29, 40, 56)), [tokens])
    assert kernels.count == 0
    gate.set()
    assert all(done.wait(FAR) for done in list(jit._background.values()))
    late = kernels.count
    assert late > 0
    with torch.inference_mode(), jit.raise_if_missing():  # nothing is missing any more
        batch = torch.from_numpy(pixels)[None].cuda()
        ours, close = engine._compiled[name].encode_both(batch)
        drawn = engine._compiled[name].decode(torch.from_numpy(tokens).long()[None].cuda(), (29, 40, 56))
    assert kernels.count == late
    assert (ours[0].cpu().numpy() != tokens).mean() < 0.01
    np.testing.assert_allclose(close[0].cpu().numpy(), vectors, atol=1e-3)
    assert np.abs(drawn[0].cpu().numpy().astype(int) - frames).max() <= 1
