"""Readers and writers of forms: what they take, and what they refuse before it costs anything."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import msgpack
import numpy as np
import pytest

from service.errors import ProblemError
from service.formats.codes import read_codes, write_codes
from service.formats.json import from_base64
from service.formats.msgpack import unpack
from service.formats.result import EncodeMeta, EncodeResult
from service.formats.tensors import pack_tensor


@pytest.mark.parametrize(
    "text",
    [
        "aGk=",
        "data:;base64,aGk=",
        "DATA:image/png;BASE64,aGk=",
        "data:text/plain;charset=utf-8;base64,aG\r\nk=",
        " aGk=\n",
    ],
)
def test_base64_may_be_a_data_url_or_wrapped(text: str) -> None:
    assert from_base64(text, "media") == b"hi"


@pytest.mark.parametrize(
    "text",
    ["data:image/png,aGk=", "data:base64,aGk=", "data:image/png;base64;aGk=", "data:a,b;base64,aGk=",
     "data:" + "x" * 257 + ";base64,aGk=", "data:;base64,data:;base64,aGk=", "file:;base64,aGk=", "data:;base64,aGk",
     "aGk=aGk=", "aG\vk=", "aG\u00a0k=", "aG-_", "%61Gk="],
)  # fmt: skip
def test_base64_is_strict_otherwise(text: str) -> None:
    with pytest.raises(ProblemError, match="malformed-body"):
        from_base64(text, "media")


def test_the_members_of_a_zip_share_one_bound() -> None:
    codes = EncodeResult(EncodeMeta(bundle="a" * 64), np.ones((1, 2, 300), "<u2"), np.ones((1, 2, 300, 3), "<f4"))
    data = write_codes(codes, "application/x-npz")
    largest = 7200 + 128  # the latents and their header
    with pytest.raises(ProblemError, match="body-too-large"):
        read_codes(data, "application/x-npz", largest)
    assert read_codes(data, "application/x-npz", 2 * largest).latents is not None


def test_a_zip_of_many_entries_is_refused_before_they_are_listed() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(5_000):
            archive.writestr(str(index), b"")
    tracemalloc.start()
    with pytest.raises(ProblemError) as refused:
        read_codes(file.getvalue(), "application/x-npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.code == "malformed-body"
    assert peak < 2 * len(file.getvalue()), "the entries were listed"


def test_a_map_of_endless_small_lists_is_refused() -> None:
    body = msgpack.packb({"options": [[1] * 1000 for _ in range(100)]})
    with pytest.raises(ProblemError, match="malformed-body"):
        unpack(body, 2**20)


@pytest.mark.parametrize("dtype", ["<f8", "<u8", "|b1", "<U1"])
def test_arrays_that_no_receiver_knows_are_not_sent(dtype: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent; convert it"):
        pack_tensor(np.zeros(3, dtype))
