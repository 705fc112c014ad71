"""Use cases without HTTP, torch or Ray: what is chosen, checked and described."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from media.errors import MediaError
from media.types import Frames, MediaOptions, Preprocess, SourceInfo
from service.errors import ProblemError
from service.formats.result import ClipSize, EncodeMeta, EncodeResult
from service.operations.bundles import find_card
from service.operations.clip import ClipInfo, ClipSource, check_size
from service.operations.decode import decode, plan_decode
from service.operations.encode import EncodePlan, encode, plan_encode
from service.operations.options import DecodeOptions, EncodeOptions, MediaRequest, ReconstructOptions
from service.operations.reconstruct import reconstruct
from service.settings import Limits
from service.types import Decoded, Encoded, ModelCard, Timing

VQ = ModelCard("vq", "a" * 64, "vq", 512, 3, 8, 4, "causal", True, 1, "cpu", "float32")
VAE = ModelCard("vae", "b" * 64, "vae", None, 3, 8, 4, "causal", True, 1, "cpu", "float32")
CARDS = [VQ, VAE]
TOKENS = np.arange(24).reshape(2, 3, 4)
LATENTS = np.zeros((2, 3, 4, 3), np.float32)
CLIP = ClipInfo((5, 24, 32), 12.5, SourceInfo("video/mp4", "h264", 64, 48, 5, 25.0, 0.2, [0.0]), Preprocess((24, 32)))


def refusal(code: str, work: Any, *arguments: Any) -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        work(*arguments)
    assert refused.value.code == code
    return refused.value


@pytest.mark.parametrize(
    ("model", "output", "card", "want"),
    [
        (None, None, VQ, "tokens"),
        ("vq", "both", VQ, "both"),
        ("vq", "latents", VQ, "latents"),
        ("vae", None, VAE, "latents"),
        ("vae", "latents", VAE, "latents"),
    ],
)
def test_the_outputs_of_a_bundle(model: str | None, output: Any, card: ModelCard, want: str) -> None:
    plan = plan_encode(CARDS, EncodeOptions(model=model, output=output))
    assert (plan.card, plan.want) == (card, want)


@pytest.mark.parametrize("output", ["tokens", "both"])
def test_a_vae_bundle_has_no_tokens(output: Any) -> None:
    problem = refusal("invalid-options", plan_encode, CARDS, EncodeOptions(model="vae", output=output))
    assert problem.errors[0]["pointer"] == "/output"


def test_a_bundle_is_named_or_the_first() -> None:
    assert find_card(CARDS, None) is VQ
    assert find_card(CARDS, "vae") is VAE
    assert "vq, vae" in refusal("unknown-model", find_card, CARDS, "other").detail
    assert refusal("not-ready", find_card, [], None).retry_after_seconds


@pytest.mark.parametrize(("codes", "dtype"), [(512, np.uint16), (2**16, np.uint16), (2**16 + 1, np.int32)])
def test_tokens_are_as_small_as_their_codebook_allows(codes: int, dtype: Any) -> None:
    plan = plan_encode([replace(VQ, codebook_size=codes)], EncodeOptions())
    result = plan.result(TOKENS.astype(np.int32), None, CLIP, "request")
    assert result.tokens is not None
    assert result.tokens.dtype == dtype
    np.testing.assert_array_equal(result.tokens, TOKENS)
    meta = result.meta
    assert (meta.id, meta.model, meta.bundle, meta.kind) == ("request", "vq", VQ.hash, "vq")
    assert (meta.grid, meta.fps, meta.codebook_size) == ([2, 3, 4], 12.5, codes)
    assert meta.size is not None
    assert meta.size.as_tuple() == CLIP.size
    assert meta.source is not None
    assert meta.source.codec == "h264"
    assert meta.preprocess is not None
    assert (meta.preprocess.resize, meta.preprocess.crop) == ((24, 32), None)


class Backend:
    """Answers with zeros, and notes what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def models(self) -> list[ModelCard]:
        return CARDS

    async def encode(self, model: str, pixels: Any, want: Any) -> Encoded:
        self.calls.append((model, want))
        return Encoded(TOKENS.astype(np.int32), None, Timing(1.0, 2.0, 3))

    async def decode(self, model: str, codes: Any, size: Any) -> Decoded:
        self.calls.append((model, size))
        return Decoded(np.zeros((*size, 3), np.uint8), Timing(1.0, 2.0, 3))

    async def reconstruct(self, model: str, pixels: Any) -> Decoded:
        self.calls.append(model)
        return Decoded(pixels, Timing(1.0, 2.0, 3))


ARRAY = ClipSource(array=np.zeros((5, 24, 32, 3), np.uint8))
NO_POOL: Any = None  # arrays need no decoder


async def test_encode_and_decode_are_whole_without_a_server() -> None:
    backend, seen = Backend(), []
    encoded = await encode(backend, NO_POOL, ARRAY, EncodeOptions(), Limits(), lambda *step: seen.append(step))
    assert seen == [(EncodePlan(VQ, "tokens"), None), (EncodePlan(VQ, "tokens"), 24)]
    assert encoded.result.meta.grid == [2, 3, 4]
    assert encoded.result.meta.timing is not None
    assert (encoded.result.meta.timing.queue_ms, encoded.result.meta.timing.compute_ms) == (1.0, 2.0)
    decoded = await decode(backend, encoded.result, DecodeOptions(fps=5), Limits())
    assert (decoded.card, decoded.fps, decoded.pixels.shape) == (VQ, 5.0, (5, 24, 32, 3))
    copy = await reconstruct(backend, NO_POOL, ARRAY, ReconstructOptions(model="vae"), Limits())
    assert (copy.card, copy.psnr.shape) == (VAE, (5,))
    assert backend.calls == [("vq", "tokens"), ("vq", (5, 24, 32)), "vae"]


@pytest.mark.parametrize(("claimed", "milliseconds"), [(0.25, 250.0), (99.0, 3000.0)])
async def test_decoding_is_timed_by_its_worker_as_far_as_the_clock_goes(
    monkeypatch: pytest.MonkeyPatch, claimed: float, milliseconds: float
) -> None:
    picture = SourceInfo("image/png", "png", 8, 8, 1, None, None, [0.0])

    class Pool:
        async def decode(self, *_: Any) -> Frames:
            return Frames(np.zeros((1, 8, 8, 3), np.uint8), picture, Preprocess(), False, claimed)

    clock = iter([10.0, 13.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    pool: Any = Pool()
    clip = await ClipSource(media=b"a file").read(pool, EncodeOptions())
    assert clip.decode_ms == milliseconds


async def test_nothing_is_computed_that_is_over_a_limit_or_not_accepted() -> None:
    backend = Backend()

    def refuse(*step: Any) -> None:
        raise ProblemError("not-acceptable", "The caller takes nothing.")

    for limits, accept, code in (
        (Limits(tokens=23), lambda *step: None, "too-many-tokens"),
        (Limits(), refuse, "not-acceptable"),
    ):
        for work in (
            encode(backend, NO_POOL, ARRAY, EncodeOptions(), limits, accept),
            decode(backend, result(), DecodeOptions(), limits, accept),
            reconstruct(backend, NO_POOL, ARRAY, ReconstructOptions(), limits, accept),
        ):
            with pytest.raises(ProblemError) as refused:
                await work
            assert refused.value.code == code
    assert backend.calls == []


def result(**meta: Any) -> EncodeResult:
    return EncodeResult(EncodeMeta(bundle=VQ.hash, **meta), TOKENS)


def test_decoding_takes_size_and_rate_from_the_options_the_metadata_or_the_grid() -> None:
    size = ClipSize(frames=4, height=20, width=30)
    plan = plan_decode(CARDS, result(size=size, fps=10.0), DecodeOptions())
    assert (plan.card, plan.size, plan.fps) == (VQ, (4, 20, 30), 10.0)
    assert plan_decode(CARDS, result(size=size), DecodeOptions(frames=3, width=32, fps=5)).size == (3, 20, 32)
    plan = plan_decode(CARDS, result(), DecodeOptions())
    assert (plan.size, plan.fps) == ((5, 24, 32), 25.0)
    refusal("bad-grid", plan_decode, CARDS, result(), DecodeOptions(height=25))


def test_a_bundle_decodes_tokens_or_latents() -> None:
    assert plan_decode(CARDS, result(), DecodeOptions()).codes.dtype == np.int32
    for card, tokens in ((VQ, None), (VAE, None), (VAE, TOKENS)):
        plan = plan_decode(CARDS, EncodeResult(EncodeMeta(bundle=card.hash), tokens, LATENTS), DecodeOptions())
        assert (plan.codes.dtype, plan.codes.shape) == (np.float32, LATENTS.shape)
    only = EncodeResult(EncodeMeta(bundle=VAE.hash), TOKENS)
    refusal("invalid-tensor", plan_decode, CARDS, only, DecodeOptions())


@pytest.mark.parametrize(
    ("options", "meta", "code"),
    [
        (DecodeOptions(), EncodeMeta(), "invalid-options"),
        (DecodeOptions(bundle="b" * 64), EncodeMeta(bundle="a" * 64), "model-mismatch"),
        (DecodeOptions(model="vae"), EncodeMeta(bundle="a" * 64), "model-mismatch"),
        (DecodeOptions(), EncodeMeta(bundle="c" * 64), "model-mismatch"),
        (DecodeOptions(model="other"), EncodeMeta(bundle="a" * 64), "unknown-model"),
    ],
)
def test_only_the_bundle_that_made_the_tokens_decodes_them(options: DecodeOptions, meta: EncodeMeta, code: str) -> None:
    refusal(code, plan_decode, CARDS, EncodeResult(meta, TOKENS), options)


@pytest.mark.parametrize(
    ("made_by", "advice"), [(VQ.hash, f"Name its model, {VQ.id}."), ("c" * 64, "No bundle of that hash is here.")]
)
def test_a_wrong_bundle_is_told_from_one_that_is_not_served(made_by: str, advice: str) -> None:
    tokens = EncodeResult(EncodeMeta(bundle=made_by), TOKENS)
    assert refusal("model-mismatch", plan_decode, CARDS, tokens, DecodeOptions(model=VAE.id)).detail.endswith(advice)


def test_the_work_of_a_request_is_bounded() -> None:
    limits = Limits(tokens=24, kept_frames=5)
    assert check_size(VQ, (5, 24, 32), limits) == 24
    assert refusal("too-many-tokens", check_size, VQ, (5, 24, 33), limits).actual == 30
    assert refusal("too-many-frames", check_size, VQ, (6, 8, 8), limits).limit == 5


def test_options_of_media_are_those_of_the_reader() -> None:
    assert MediaRequest().media() == MediaOptions()
    given = {
        "size": "24x32",
        "fit": "stretch",
        "frames": 3,
        "sampling": "stride",
        "stride": 2,
        "start_s": 1,
        "end_s": 2,
    }
    expected = MediaOptions((24, 32), "stretch", 3, "stride", 2, 1.0, 2.0, animated=True)
    assert MediaRequest(**given, animated=True).media() == expected
    assert {field.name for field in fields(MediaOptions)} == set(MediaRequest.model_fields) - {"model"}


@pytest.mark.parametrize(
    "wrong", [{"start_s": 2, "end_s": 1}, {"stride": 2}, {"size": "8x8x8"}, {"frames": 0}, {"colour": "red"}]
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, MediaError)):
        MediaRequest(**wrong)
