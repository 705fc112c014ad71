"""Requests and the reading of their answers, the same for both clients; nothing here sends anything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client.media import Codes, Media, codes_result, content_type, media_body
from service.client.retries import RetryRule, ServiceError
from service.formats.codes import read_codes, write_codes
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack
from service.formats.npy import read_npy
from service.formats.result import EncodeResult
from service.formats.tensors import pack_tensor
from service.loopback import is_loopback
from service.types import ModelCard, Want

API_KEY_VARIABLE = "OMNITOK_API_KEY"
CONNECT_SECONDS = 5.0
READ_BYTES = 2**18
NOTHING_FOLLOWS = 204
RESUME_SECONDS = 0.5  # of a stream that broke
LOCAL_URL = "http://127.0.0.1:8000"


class ConnectionOptions(TypedDict, total=False):
    """Options of a client.

    api_key: of this caller, sent with every call; the variable OMNITOK_API_KEY by default, if it is set.
    headers: sent with every call.
    timeout: seconds without a byte of the answer before a call is given up; 75 by default.
    retries: attempts after a broken connection or a passing refusal, 6 by default; all calls are pure.
    """

    api_key: str | None
    headers: Mapping[str, str] | None
    timeout: float
    retries: int


class MediaOptions(TypedDict, total=False):
    """Options that turn media into the pixels to encode; what is left out is the service's default.

    model: id of a bundle. size: "128" or "96x128" (height x width). fit: how the picture fills that size.
    frames: how many to keep, chosen by sampling and stride. start_s, end_s: part of the clip, seconds.
    animated: whether an animated picture is a clip.
    """

    model: str
    size: str
    fit: Literal["cover", "contain", "stretch"]
    frames: int
    sampling: Literal["first", "uniform", "stride"]
    stride: int
    start_s: float
    end_s: float
    animated: bool


class EncodeOptions(MediaOptions, total=False):
    """Options of `encode`. output: tokens, latents or both."""

    output: Want


class ReconstructOptions(MediaOptions, total=False):
    """Options of `reconstruct`.

    fps: frames per second of a clip. quality: 1 to 100 for lossy pictures. side_by_side: the original on the left.
    """

    fps: float
    quality: int
    side_by_side: bool


class DecodeOptions(TypedDict, total=False):
    """Options of `decode`; what is left out comes with the tokens.

    model: id of a bundle. frames, height, width: size in pixels to crop to. fps: frames per second of a clip.
    quality: 1 to 100 for lossy pictures.
    """

    model: str
    frames: int
    height: int
    width: int
    fps: float
    quality: int


@dataclass(frozen=True)
class Call:
    """One request, which can be sent any number of times.

    Args:
        method, path: such as "POST", "/encode".
        params: query parameters; entries that are None are left out.
        headers: request headers.
        body: the bytes, or a file that is read anew and in pieces for every attempt.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Path | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of httpx's `request`, without the content."""
        headers = dict(self.headers)
        if isinstance(self.body, Path):
            headers["Content-Length"] = str(self.body.stat().st_size)
        params = {key: value for key, value in self.params.items() if value is not None}
        return {"method": self.method, "url": self.path, "params": params, "headers": headers}


def connection(
    base_url: str,
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 75.0,
    retries: int = 6,
) -> tuple[RetryRule, dict[str, Any]]:
    """Return the rule of retries and the arguments of an httpx client; the values are those of `ConnectionOptions`.

    Raises:
        ServiceError: the address or the key cannot be one.
    """
    # Calls that wait for a free connection wait as long as it takes.
    limits = httpx.Timeout(timeout, connect=CONNECT_SECONDS, pool=None)
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    if key and not key.isascii():
        raise ServiceError("The API key has characters that no key has. Copy it once more.")
    sent = httpx.Headers({"Authorization": f"Bearer {key}"} if key else {})
    sent.update(headers)
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ServiceError(f"{base_url} is not the address of a service: {error}.") from error
    if url.scheme not in ("http", "https"):
        raise ServiceError(f"{base_url} is not the address of a service: it must begin with http:// or https://.")
    # A proxy, such as that of a company, would look for a service of this machine on its own.
    mounts = {str(url.copy_with(scheme="all", path="/")): None} if is_loopback(url.host) else None
    return RetryRule(retries), {"base_url": base_url, "headers": sent, "timeout": limits, "mounts": mounts}


MODELS = Call("GET", "/models")
LIMITS = Call("GET", "/limits")
READY = Call("GET", "/health/ready")


def media_call(path: str, media: Media, options: Mapping[str, Any], accept: str) -> Call:
    """Return the call that sends media.

    Args:
        path: of the route.
        media, options: as the caller gave them.
        accept: the media type of the answer.

    Raises:
        TypeError, ValueError: see `media_body`.
        OSError: the file cannot be read.
    """
    body = media_body(media, animated=bool(options.get("animated")))
    if isinstance(body, np.ndarray):
        packed = pack({"array": pack_tensor(body), "options": dict(options)})
        return Call("POST", path, {}, {"Content-Type": MSGPACK, "Accept": accept}, packed)
    return Call("POST", path, options, {"Content-Type": content_type(body), "Accept": accept}, body)


def decode_call(codes: Codes, bundle: str | None, options: Mapping[str, Any], accept: str) -> Call:
    """Return the call that decodes.

    Args:
        codes, bundle, options: as the caller gave them.
        accept: the media type of the answer.

    Raises:
        TypeError, ProblemError: see `codes_result`.
    """
    body = write_codes(codes_result(codes, bundle), MSGPACK)
    return Call("POST", "/decode", options, {"Content-Type": MSGPACK, "Accept": accept}, body)


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, for a body that is not held in memory."""
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            yield piece


def result_of(response: httpx.Response) -> EncodeResult:
    """Return the tokens or latents of an answer."""
    return read_codes(response.content, MSGPACK)


def pixels_of(response: httpx.Response) -> NDArray[np.uint8]:
    """Return the pixels of an answer, uint8 RGB (T, H, W, 3)."""
    return read_npy(response.content, "pixels")


def cards_of(response: httpx.Response) -> list[ModelCard]:
    """Return the bundles of an answer of `/models`."""
    return [ModelCard(**card) for card in response.json()["models"]]
