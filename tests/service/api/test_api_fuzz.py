"""Whatever bytes arrive, the parsers return or refuse; they never fail."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from api_server import VAE, VQ
from bad_inputs import LIMITS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_generators import ToyGenerators

from service.api.body import Body
from service.api.content_type import MULTIPART, ContentType, parse_content_type
from service.api.negotiation import choose
from service.api.parsing import CODES, MEDIA, parse_codes, parse_media
from service.api.parsing_generate import parse_generate
from service.api.query import parse_options
from service.errors import ProblemError
from service.formats.codes import FORMATS, read_codes, sniff_codes, write_codes
from service.formats.json import read_json
from service.formats.media_types import MSGPACK_SEQUENCE
from service.formats.msgpack import unpack
from service.formats.pixels import pixel_offers
from service.formats.result import ClipSize, EncodeMeta, EncodeResult
from service.formats.tensors import DTYPES, pack_tensor, unpack_tensor
from service.formats.validation import public_names
from service.operations.decode import plan_decode
from service.operations.encode import plan_encode
from service.operations.generate_plan import plan_generate
from service.operations.options import DecodeOptions, EncodeOptions, ReconstructOptions
from service.operations.options_generate import GenerateOptions

many = settings(max_examples=150)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
jsonable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
NAMES = sorted({*EncodeMeta.model_fields, "tokens", "latents", "media", "array", "options", "codes", "class"})
envelopes = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "|O", ">u2", "<c8", ""]) | plain,
        "shape": st.lists(st.integers(-2, 4), max_size=6) | plain,
        "data": st.binary(max_size=64) | plain,
    }
)
maps = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), envelopes | plain, max_size=6)


def refuses_or_returns(function, *arguments):
    refusal = None
    try:
        return function(*arguments)
    except ProblemError as problem:
        refusal = problem
    assert 400 <= refusal.status < 500
    assert json.dumps(refusal.document("x"))
    return None


@st.composite
def results(draw: st.DrawFn) -> EncodeResult:
    t, h, w = (draw(st.integers(1, 4)) for _ in range(3))
    kind = draw(st.sampled_from(["tokens", "latents", "both"]))
    dtype = draw(st.sampled_from(["<u2", "<u4", "<i4", "<i8"]))
    tokens = draw(st.lists(st.integers(0, 2**15), min_size=t * h * w, max_size=t * h * w))
    latents = np.array(draw(st.lists(st.floats(-9, 9, width=32), min_size=t * h * w, max_size=t * h * w)), np.float32)
    meta = EncodeMeta(
        bundle=VQ.hash,
        model=draw(st.none() | st.text(max_size=20)),
        grid=draw(st.sampled_from([None, [t, h, w]])),
        size=draw(
            st.none() | st.builds(ClipSize, frames=st.just(t), height=st.integers(1, 99), width=st.integers(1, 99))
        ),
        fps=draw(st.none() | st.floats(0.1, 240)),
    )
    return EncodeResult(
        meta,
        np.array(tokens, dtype).reshape(t, h, w) if kind != "latents" else None,
        latents.reshape(t, h, w, 1) if kind != "tokens" else None,
    )


@given(results(), st.sampled_from([form for form in FORMATS if form != "application/x-npy"]))
def test_dump_then_load_is_the_same(result: EncodeResult, form: str) -> None:
    data = write_codes(result, form)
    assert sniff_codes(data[:64]) == form
    back = read_codes(data, form)
    assert back.meta == result.meta
    for one, other in ((back.tokens, result.tokens), (back.latents, result.latents)):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


WHOLE_CODES = [name for name in CODES.types if name != MSGPACK_SEQUENCE]  # which streams read


@many
@given(results(), st.sampled_from(sorted(FORMATS)), st.data())
def test_damaged_results_are_refused_or_read(result: EncodeResult, form: str, data: st.DataObject) -> None:
    if form == "application/x-npy" and result.tokens is None:
        return
    original = write_codes(result, form)
    damaged = bytearray(original[: data.draw(st.integers(0, len(original)))])
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    refuses_or_returns(read_codes, bytes(damaged), form, 10_000)
    refuses_or_returns(parse_codes, Body(ContentType("application/octet-stream"), bytes(damaged)), LIMITS)


@many
@given(st.binary(max_size=200) | plain.map(msgpack.packb), st.sampled_from(MEDIA.types))
@example(b"\x81\xa5media\xc4\x00", "application/msgpack")
def test_bytes_as_media_bodies(data: bytes, media_type: str) -> None:
    boundary = b"sep" if media_type == MULTIPART else None
    refuses_or_returns(parse_media, Body(ContentType(media_type, boundary), data), LIMITS)
    refuses_or_returns(parse_generate, Body(ContentType(media_type, boundary), data), LIMITS)


@many
@given(st.binary(max_size=200) | plain.map(msgpack.packb), st.sampled_from(WHOLE_CODES))
def test_bytes_as_codes_bodies(data: bytes, media_type: str) -> None:
    boundary = b"sep" if media_type == MULTIPART else None
    refuses_or_returns(parse_codes, Body(ContentType(media_type, boundary), data), LIMITS)


@many
@given(maps)
def test_maps_of_the_right_names(fields: dict) -> None:
    body = Body(ContentType("application/msgpack"), msgpack.packb(fields))
    refuses_or_returns(parse_media, body, LIMITS)
    refuses_or_returns(parse_codes, body, LIMITS)
    refuses_or_returns(parse_generate, body, LIMITS)


@many
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), jsonable, max_size=6))
def test_json_of_the_right_names(fields: dict) -> None:
    body = Body(ContentType("application/json"), json.dumps(fields).encode())
    refuses_or_returns(parse_media, body, LIMITS)
    refuses_or_returns(parse_codes, body, LIMITS)
    refuses_or_returns(parse_generate, body, LIMITS)


@many
@given(
    st.lists(st.tuples(st.sampled_from(["media", "tokens", "options", "x", ""]), st.binary(max_size=40)), max_size=4),
    st.data(),
)
def test_multipart_bodies(parts: list[tuple[str, bytes]], data: st.DataObject) -> None:
    body = b"".join(
        b'--sep\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in parts
    )
    body += b"--sep--\r\n"
    cut = Body(ContentType(MULTIPART, b"sep"), body[: data.draw(st.integers(1, len(body)))])
    refuses_or_returns(parse_media, cut, LIMITS)
    refuses_or_returns(parse_codes, cut, LIMITS)
    refuses_or_returns(parse_generate, cut, LIMITS)


@many
@given(
    st.dictionaries(
        st.sampled_from(["tokens.npy", "latents.npy", "meta.npy", "x"]), st.binary(max_size=200), max_size=4
    )
)
def test_archives_of_noise(members: dict[str, bytes]) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, b"\x93NUMPY\x01\x00" + data if len(data) % 2 else data)
    refuses_or_returns(read_codes, file.getvalue(), "application/x-npz", 1000)


@many
@given(plain)
def test_wire_reads_back_what_it_packs_or_refuses(value: object) -> None:
    data = msgpack.packb(value)
    read = refuses_or_returns(unpack, data, 1000)
    if isinstance(value, dict):
        assert read is not None
        assert msgpack.packb(read) == data
    else:
        assert read is None


@many
@given(envelopes)
def test_envelopes(envelope: dict) -> None:
    array = refuses_or_returns(unpack_tensor, envelope, "x")
    if array is not None:
        assert pack_tensor(array)["data"] == bytes(envelope["data"])


@many
@given(st.text(max_size=200) | jsonable.map(json.dumps))
def test_json_texts(text: str) -> None:
    refuses_or_returns(read_json, text)


queries = st.binary(max_size=60) | st.lists(
    st.tuples(st.sampled_from([*EncodeOptions.model_fields, *DecodeOptions.model_fields, "x"]), st.text(max_size=12)),
    max_size=4,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode())


@many
@given(
    queries, st.none() | plain | st.dictionaries(st.sampled_from(sorted(EncodeOptions.model_fields)), plain, max_size=4)
)
def test_options(query: bytes, body: object) -> None:
    options = refuses_or_returns(parse_options, EncodeOptions, query, body)
    if options is not None:
        refuses_or_returns(options.media)
        refuses_or_returns(plan_encode, [VQ], options)
    refuses_or_returns(parse_options, ReconstructOptions, query, body)
    decode = refuses_or_returns(parse_options, DecodeOptions, query, body)
    if decode is not None:
        refuses_or_returns(
            plan_decode, [VQ], EncodeResult(EncodeMeta(bundle=VQ.hash), np.zeros((2, 3, 4), "<u2")), decode
        )


@many
@given(
    st.dictionaries(
        st.sampled_from(public_names(GenerateOptions)),
        st.sampled_from([0, 1, 5, 9, 2**40, -1, 0.5, "1", "red fox", "video", "image", "toy-dit", True, None]) | plain,
        max_size=5,
    ),
    st.booleans(),
    st.sampled_from([None, 1, 5]),
)
def test_options_of_generators(body: dict, has_source: bool, frames: int | None) -> None:
    options = refuses_or_returns(parse_options, GenerateOptions, b"", body)
    if options is not None:
        lm, dit, _ = ToyGenerators(VQ, VAE).cards
        cards = [replace(lm, tokenizer=VQ.id), replace(dit, tokenizer=VAE.id)]
        refuses_or_returns(plan_generate, [VQ, VAE], cards, options, LIMITS, has_source, frames if has_source else None)


@given(st.text(max_size=60))
def test_headers(text: str) -> None:
    refuses_or_returns(choose, text, pixel_offers(1))
    refuses_or_returns(parse_content_type, text.encode("latin-1", "ignore").decode("latin-1"), MEDIA.types)


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_cut_archives(cut: int) -> None:
    whole = write_codes(EncodeResult(EncodeMeta(bundle=VQ.hash), np.ones((1, 2, 2), "<u2")), "application/x-npz")
    refuses_or_returns(read_codes, whole[: len(whole) * cut // 100], "application/x-npz", 10_000)
