"""Calls of generate and the reading of their answers, the same for both clients; nothing here sends anything."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, TypeAlias, TypedDict

import httpx
import numpy as np

from service.client.calls import Call
from service.client.media import Media, content_type, media_body
from service.client.retries import BrokenStreamError, RetryRule, ServiceError
from service.formats.codes import read_codes, write_codes
from service.formats.media_types import EVENT_STREAM, MSGPACK, NPY
from service.formats.msgpack import pack
from service.formats.npy import read_npy
from service.formats.result import EncodeResult
from service.formats.samples import SampleArrays, Samples, SamplesMeta
from service.formats.tensors import pack_tensor
from service.types import GenerateParams, GeneratorCard

FILES = ("pixels", "codes")
Prefix: TypeAlias = "Media | EncodeResult"


class GenerateOptions(TypedDict, total=False):
    """Options of `generate`; what is left out is the model's default.

    model: id of a generator. kind: what to make. n: samples. seed: of the samples. frames: of a video, the prefix
    included. prefix_frames: frames at the start of the prefix to continue. fit: how the prefix fills the model's size.
    start_s, end_s: part of the clip that holds the prefix, seconds. temperature, top_k, top_p: sampling of tokens.
    guidance: scale, 1 for none. guidance_growth: with each token. steps, sampler: denoising.
    output: pixels, tokens (latents of a diffusion model), or both. preview: pictures of unfinished samples among the
    events. fps: frames per second of a clip. quality: 1 to 100 for lossy pictures.
    """

    model: str
    kind: Literal["image", "video"]
    n: int
    seed: int
    frames: int
    prefix_frames: int
    fit: Literal["cover", "contain", "stretch"]
    start_s: float
    end_s: float
    temperature: float
    top_k: int
    top_p: float
    guidance: float
    guidance_growth: float
    steps: int
    sampler: Literal["ddim", "ddpm"]
    output: Literal["pixels", "tokens", "both"]
    preview: bool
    fps: float
    quality: int


@dataclass(frozen=True)
class GenerateEvent:
    """One event of a running generation.

    Args:
        name: accepted, started, progress, preview, result or done.
        fields: as the service sent them, except files.
        files: of a preview or a result, by name (pixels, codes): media type and bytes.
    """

    name: str
    fields: Mapping[str, Any]
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return one line: files without their bytes."""
        files = "".join(f", {name}: {len(data)} bytes of {kind}" for name, (kind, data) in self.files.items())
        return f"<GenerateEvent {self.name} {dict(self.fields)}{files}>"


def generate_call(class_: int | str | None, prefix: Prefix | None, options: Mapping[str, Any], accept: str) -> Call:
    """Return the call that generates.

    Args:
        class_: id or name of a class.
        prefix: frames to continue, as media or as tokens.
        options: as the caller gave them.
        accept: media types of the answer.

    Raises:
        TypeError, ValueError: see `media_body`.
        OSError: the file cannot be read.
    """
    given = dict(options) if class_ is None else {"class": class_} | dict(options)
    packed = {"Content-Type": MSGPACK, "Accept": accept}
    if prefix is None:
        return Call("POST", "/generate", {}, packed, pack(given))
    if isinstance(prefix, EncodeResult):
        return Call("POST", "/generate", {}, packed, pack(given | {"codes": write_codes(prefix, MSGPACK)}))
    body = media_body(prefix, animated=True)
    if isinstance(body, np.ndarray):
        return Call("POST", "/generate", {}, packed, pack(given | {"array": pack_tensor(body)}))
    return Call("POST", "/generate", given, {"Content-Type": content_type(body), "Accept": accept}, body)


class EventReader:
    """The parser of an event stream, fed line by line."""

    def __init__(self) -> None:
        self._name = ""
        self._ended = False

    def feed(self, line: str) -> GenerateEvent | None:
        """Return the event that a line completes, if it does.

        Raises:
            ServiceError: the service reports a failure.
            BrokenStreamError: the line is cut off.
        """
        kind, _, text = line.partition(": ")
        if kind == "event":
            self._name = text
        if kind != "data":
            return None
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise BrokenStreamError("The stream of events broke off within one.") from error
        if self._name == "error":
            raise ServiceError(fields["detail"], fields["status"], fields)
        self._ended = self._name == "done"
        names = [name for name in FILES if name in fields]
        files = {name: (fields[name]["media_type"], base64.b64decode(fields.pop(name)["data"])) for name in names}
        return GenerateEvent(self._name, fields, files)

    def close(self) -> None:
        """Check that the stream came to its end.

        Raises:
            BrokenStreamError: it broke off.
        """
        if not self._ended:
            raise BrokenStreamError("The stream of events broke off before its end.")


def collected(
    read: Callable[[], Iterable[GenerateEvent]], rule: RetryRule, sleep: Callable[[float], None]
) -> list[GenerateEvent]:
    """Return all events of a call, which is repeated while they break off.

    Args:
        read: makes the call.
        rule: of its repetition.
        sleep: how to wait, seconds.

    Raises:
        ServiceError: as `read`.
    """
    for attempt in count():
        try:
            return list(read())
        except BrokenStreamError as error:
            sleep(rule.again(attempt, error))
    raise AssertionError("The rule ends the loop.")


def samples_of(events: Iterable[GenerateEvent]) -> Samples:
    """Return the samples of the results among events, whose pixels are npy."""
    results = [event for event in events if event.name == "result"]
    meta = {name: value for name, value in results[0].fields.items() if name != "index"}
    return Samples(SamplesMeta.model_validate(meta), tuple(_arrays(result) for result in results))


def files_of(events: Iterable[GenerateEvent]) -> list[bytes]:
    """Return the files of pixels of the results among events."""
    return [event.files["pixels"][1] for event in events if event.name == "result"]


def accepted(accept: str | None, options: Mapping[str, Any]) -> str:
    """Return the Accept header of a stream whose results are arrays, or files of a media type.

    Raises:
        ValueError: the results are to be files, and have no pixels.
    """
    if accept is not None and options.get("output") == "tokens":
        raise ValueError("A media type is for pixels, and output='tokens' makes none; leave one of them out.")
    return f"{EVENT_STREAM}, {accept or NPY}"


def generator_cards_of(response: httpx.Response) -> list[GeneratorCard]:
    """Return the generators of an answer of `/models`; the names of their classes are left out."""
    return [_card(entry) for entry in response.json()["generators"]]


def classes_call(query: str, model: str | None) -> Call:
    """Return the call that lists classes."""
    return Call("GET", "/classes", {"q": query or None, "model": model})


def classes_of(response: httpx.Response) -> dict[int, str]:
    """Return the classes of an answer of `/classes`, names by id."""
    return {entry["id"]: entry["name"] for entry in response.json()["classes"]}


def _arrays(result: GenerateEvent) -> SampleArrays:
    pixels, codes = (result.files.get(name, (None, None))[1] for name in FILES)
    return SampleArrays(
        None if pixels is None else read_npy(pixels, "`pixels`"), None if codes is None else read_codes(codes)
    )


def _card(entry: dict[str, Any]) -> GeneratorCard:
    typed = {
        "classes": (),
        "makes": tuple(entry["makes"]),
        "grid": tuple(entry["grid"]),
        "defaults": GenerateParams(**entry["defaults"]),
    }
    return GeneratorCard(**entry | typed)
