"""Bad requests: their type, their sender, and the builders of their bodies.

`send` speaks HTTP itself, so that a case can stall or lie about lengths.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from service.formats.tensors import pack_tensor
from service.settings import Limits
from service.types import ModelCard

LIMITS = Limits(
    image_bytes=200_000,
    video_bytes=400_000,
    tensor_bytes=400_000,
    json_bytes=100_000,
    body_seconds=120.0,  # a busy machine's bodies are no slow ones
    image_pixels=1_000_000,
    image_side=2_048,
    video_pixels=512 * 512,
    video_side=1_024,
    decoded_frames=48,
    animation_frames=12,
    kept_frames=17,
    kept_pixels=256 * 256,
    duration_seconds=10.0,
    tokens=4_096,
    json_tokens=512,
)


@dataclass(frozen=True)
class Target:
    """A running service, and the traps laid beside it.

    Args:
        card: its default bundle, a vq one.
        decoy: a playable file that no request may open.
        port: a local port that listens and to which no request may connect.
    """

    card: ModelCard
    decoy: Path
    port: int


@dataclass(frozen=True)
class Case:
    """One bad request.

    Args:
        name: what is wrong with it.
        status, code: the answer that it must get.
        body: makes the bytes; a list of them is sent with chunked encoding.
        path: may hold {bundle}.
        length: what Content-Length says, where that is not the length of the body.
    """

    name: str
    status: int
    code: str
    path: str
    body: Callable[[Target], bytes | list[bytes] | None]
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    length: int | None = None


def send(host: str, port: int, case: Case, target: Target) -> tuple[int, dict[str, str], bytes]:
    """Send a case over a connection of its own; the answer's status, headers in lower case, and body."""
    body = case.body(target)
    path = case.path.format(bundle=target.card.hash)
    lines = [f"{case.method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in case.headers.items()]
    if isinstance(body, list):
        lines.append("Transfer-Encoding: chunked")
        payload = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in body) + b"0\r\n\r\n"
    else:
        payload = body or b""
        lines.append(f"Content-Length: {len(payload) if case.length is None else case.length}")
    with socket.create_connection((host, port), timeout=60) as connection:
        # A body that is refused before all of it was read breaks the sending, not the answer.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + payload)
        response = http.client.HTTPResponse(connection, method=case.method)
        response.begin()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


MSGPACK = {"Content-Type": "application/msgpack"}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=sep"}
OCTETS = {"Content-Type": "application/octet-stream"}
PNG, JPEG, GIF = ({"Content-Type": f"image/{name}"} for name in ("png", "jpeg", "gif"))
WEBP, MP4, WEBM = {"Content-Type": "image/webp"}, {"Content-Type": "video/mp4"}, {"Content-Type": "video/webm"}
NPY, NPZ = {"Content-Type": "application/x-npy"}, {"Content-Type": "application/x-npz"}
SAFETENSORS = {"Content-Type": "application/vnd.safetensors"}


def raw(data: bytes | Callable[[], bytes]) -> Callable[[Target], bytes]:
    return lambda target: data if isinstance(data, bytes) else data()


def packed(**fields: Any) -> Callable[[Target], bytes]:
    return lambda target: msgpack.packb(fields)


def as_json(**fields: Any) -> Callable[[Target], bytes]:
    return lambda target: json.dumps(fields).encode()


def envelope(dtype: str, shape: list[int], data: bytes | None = None) -> dict[str, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return {"dtype": dtype, "shape": shape, "data": bytes(size) if data is None else data}


def codes(tokens: Any, **fields: Any) -> Callable[[Target], bytes]:
    envelope = pack_tensor(tokens) if isinstance(tokens, np.ndarray) else tokens
    return lambda target: msgpack.packb({"bundle": target.card.hash, "tokens": envelope} | fields)


def codes_json(**fields: Any) -> Callable[[Target], bytes]:
    return lambda target: json.dumps({"bundle": target.card.hash} | fields).encode()


def multipart(*parts: tuple[str, bytes, str], tail: bytes = b"--sep--\r\n") -> Callable[[Target], bytes]:
    body = b""
    for name, data, extra in parts:
        body += f'--sep\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n{extra}\r\n'.encode()
        body += data + b"\r\n"
    return lambda target: body + tail


def npy(array: np.ndarray[Any, Any], allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_claim(shape: str, dtype: str = "<i4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def in_last_box(data: bytes) -> bytes:
    """Return an mp4 that ends within its last box of frames; a share of its bytes could end between two boxes."""
    return data[: data.rindex(b"mdat") + 12]
