"""Bodies as clients of all sorts send them: compressed, with any file name, and with labels of other times."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from api_media import clip, picture
from api_server import Server

from service.formats.codes import read_codes, write_codes
from service.formats.media_types import MSGPACK

PNG = {"Content-Type": "image/png"}
LONG = "Urlaub_😀_" * 16 + "東京.png"  # 255 bytes and more
FORM = {"Content-Type": "multipart/form-data; boundary=sep"}


@pytest.fixture
def tokens(http: httpx.Client) -> Any:
    return http.post("/encode", content=picture(), headers=PNG | {"Accept": "application/json"}).json()["tokens"]


def encoded(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["tokens"]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data[:100]) + packer.flush(zlib.Z_FULL_FLUSH) + packer.compress(data[100:]) + packer.flush()


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: gzip.compress(data, 0), raw_deflate])
@pytest.mark.parametrize("name", ["gzip", "x-gzip", "GZip", "identity, gzip"])
def test_a_gzip_body_is_the_body(http: httpx.Client, tokens: Any, pack: Callable[[bytes], bytes], name: str) -> None:
    headers = PNG | {"Content-Encoding": name, "Accept": "application/json"}
    assert encoded(http.post("/encode", content=pack(picture()), headers=headers)) == tokens


def test_a_gzip_body_may_come_byte_by_byte_and_in_any_form(http: httpx.Client, tokens: Any) -> None:
    body = gzip.compress(picture())
    headers = PNG | {"Content-Encoding": "gzip", "Accept": "application/json"}
    assert encoded(http.post("/encode", content=(bytes([byte]) for byte in body), headers=headers)) == tokens
    form = httpx.Request("POST", "http://x/", files={"media": ("x", picture(), "image/png")})
    headers["Content-Type"] = form.headers["content-type"]
    assert encoded(http.post("/encode", content=gzip.compress(form.read()), headers=headers)) == tokens


def test_gzip_tokens_decode(http: httpx.Client) -> None:
    answer = http.post("/encode", content=picture(), headers=PNG | {"Accept": MSGPACK}).content
    headers = {"Content-Type": MSGPACK}
    plain = http.post("/decode", content=answer, headers=headers)
    packed = http.post("/decode", content=gzip.compress(answer), headers=headers | {"Content-Encoding": "gzip"})
    assert packed.content == plain.content


def test_a_large_gzip_body_within_the_limit_is_taken_whole(http: httpx.Client) -> None:
    """It is refused for what it holds, not for its size, which is just below the limit of 400 kB."""
    body = gzip.compress(write_codes(read_codes(_tokens(http), MSGPACK), "application/x-npz") + bytes(300_000))
    headers = {"Content-Type": "application/x-npz", "Content-Encoding": "gzip"}
    assert http.post("/decode", content=body, headers=headers).json()["code"] == "malformed-body"


def _tokens(http: httpx.Client) -> bytes:
    return http.post("/encode", content=picture(), headers=PNG | {"Accept": MSGPACK}).content


def test_a_bomb_is_refused_before_it_is_inflated(http: httpx.Client) -> None:
    headers = PNG | {"Content-Encoding": "gzip"}
    refused = http.post("/encode", content=gzip.compress(bytes(2**26)), headers=headers).json()
    assert refused["code"] == "body-too-large"
    assert refused["limit"] < refused["actual"] <= refused["limit"] + 2**20


def test_another_encoding_is_refused_with_the_one_that_is_accepted(http: httpx.Client) -> None:
    answer = http.post("/encode", content=picture(), headers=PNG | {"Content-Encoding": "br"})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip"
    assert "gzip" in answer.json()["detail"]


@pytest.mark.parametrize(
    "disposition",
    [
        f'filename="{LONG}"',
        f"filename*=UTF-8''{quote(LONG)}",
        f"filename=\"{quote(LONG)}\"; filename*=UTF-8''{quote(LONG)}",
        'filename="a;b=\\"c\\".png"',
        "filename=plain.png",
        'filename="C:\\holiday\\x.png"',
        'filename=""',
    ],
)
def test_any_file_name_is_as_good_as_another(http: httpx.Client, tokens: Any, disposition: str) -> None:
    head = f'--sep\r\nContent-Disposition: form-data; name="media"; {disposition}\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + picture() + b"\r\n--sep--\r\n"
    assert encoded(http.post("/encode", content=body, headers=FORM | {"Accept": "application/json"})) == tokens


@pytest.mark.parametrize(
    ("label", "make"),
    [
        ("image/pjpeg", lambda: picture("JPEG")),
        ("image/jfif", lambda: picture("JPEG")),
        ("image/x-png", picture),
        ("image/x-bmp", lambda: picture("BMP")),
        ("video/3gpp", clip),
        ("video/3gpp2", clip),
        ("video/x-mp4", clip),
        ("application/mp4", clip),
        ("video/avi", lambda: clip(9, container="avi", codec="mpeg4")),
    ],
)
def test_labels_of_other_times_and_programs(http: httpx.Client, label: str, make: Callable[[], bytes]) -> None:
    for request in (
        {"content": make(), "headers": {"Content-Type": label}},
        {"files": {"media": ("x", make(), label)}},
    ):
        answer = http.post("/encode", **request)
        assert answer.status_code == 200, answer.text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--data-binary @{name} -H Content-Type:image/png", b"tokens"),
        ("--data-binary @{name} -H Content-Type:", b"tokens"),
        ("--data-binary @{name}", b"application/octet-stream"),
        ("-T {name} -X POST", b"tokens"),
        ("-F media=@{name}", b"tokens"),
        ('-F media=@{name} -F options={{"size":64}}', b"tokens"),
        ("-F media=@{name};type=image/png;filename=täöü.png", b"tokens"),
        ("-F file=@{name}", b"a part named `media`"),
        ("-F media=@{name} -F size=64", b"Options go into the query"),
    ],
)
def test_curl_lines_work_or_say_what_is_missing(server: Server, tmp_path: Path, options: str, words: bytes) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(picture())
    line = f"curl -sS --noproxy * {server.url}/encode -H Accept:application/json,*/*;q=.1 {options.format(name=path)}"
    done = subprocess.run(line.split(), capture_output=True, check=True, timeout=60)
    assert words in done.stdout
