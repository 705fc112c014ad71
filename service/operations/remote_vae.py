"""Tensors as diffusers lays them out: batches of latents to pixels in [-1, 1], and back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from service.errors import ProblemError
from service.formats.binary import DtypeName, read_binary
from service.formats.result import EncodeMeta, EncodeResult
from service.operations.bundles import find_card
from service.operations.clip import ClipSource, PixelResult, check_array
from service.operations.concurrency import gather_or_cancel
from service.operations.decode import check_channels, decode
from service.operations.encode import Encoding, encode_many
from service.operations.options import DecodeOptions, EncodeOptions, RouteOptions, Side
from service.settings import Limits
from service.types import Backend, Media, ModelCard

HALF_RANGE = 127.5  # of uint8, which [-1, 1] spans

Shape = Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(max_length=8, description="axes of the tensor")]


class RemoteOptions(RouteOptions):
    """Options of both directions."""

    repeated: ClassVar[frozenset[str]] = frozenset({"shape"})
    scaling_factor: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="the caller's latents are these times the bundle's own")
    ] = 1.0
    shift_factor: Annotated[
        float, Field(allow_inf_nan=False, description="taken from the bundle's own latents before they are scaled")
    ] = 0.0


class RemoteDecodeOptions(RemoteOptions):
    """Options of `remote_decode`."""

    shape: Shape
    dtype: Annotated[DtypeName, Field(description="of the tensor")]
    output_type: Annotated[Literal["pil", "pt", "mp4"], Field(description="picture, tensor or clip")] = "pil"
    image_format: Annotated[Literal["jpg", "png"], Field(description="form of a picture")] = "jpg"
    partial_postprocess: Annotated[bool, Field(description="with pt: uint8 frames (n, height, width, 3)")] = False
    do_scaling: Annotated[bool, Field(description="no effect: latents without a factor are the bundle's own")] = True
    height: Annotated[Side | None, Field(description="height to crop to, pixels")] = None
    width: Annotated[Side | None, Field(description="width to crop to, pixels")] = None


class RemoteEncodeOptions(RemoteOptions):
    """Options of `remote_encode`."""

    shape: Annotated[Shape | None, Field(description="axes of a tensor; a picture has none")] = None
    dtype: Annotated[DtypeName | None, Field(description="of a tensor; a picture has none")] = None


async def find_vae(backend: Backend, name: str | None) -> ModelCard:
    """Return the bundle that was named, else the first VAE, else the default one, whose vectors serve as latents.

    Raises:
        ProblemError: `unknown-model`.
    """
    cards = await backend.models()
    if name is None:
        name = next((card.id for card in cards if card.kind == "vae"), None)
    return find_card(cards, name)


def check_latents(card: ModelCard, options: RemoteDecodeOptions, as_tensor: bool, limits: Limits) -> None:
    """Refuse latents, or their pixels, by what the options say, before anybody works on them.

    Args:
        card: the bundle.
        options: as the caller gave them.
        as_tensor: whether the answer is a tensor, not a file.
        limits: of one request.

    Raises:
        ProblemError: `invalid-tensor`, `body-too-large`, `too-many-tokens`, `not-acceptable`.
    """
    if options.dtype == "uint8":
        raise ProblemError("invalid-tensor", "Latents must be float16, bfloat16 or float32, not uint8.")
    count, channels, t, h, w = _axes(options.shape, "Latents")
    _check_batch(count, count * t * h * w, limits)
    check_channels(card, channels)
    frames, height, width = card.geometry.size((t, h, w))
    if not as_tensor and (count > 1 or (options.output_type == "pil" and frames > 1)):
        detail = f"One picture or clip cannot hold {count} x {frames} frames. Ask for output_type=pt."
        raise ProblemError("not-acceptable", detail)
    if as_tensor and not (options.output_type == "pt" and options.partial_postprocess):
        values = count * frames * (options.height or height) * (options.width or width) * 3
        needed = values * _pixel_dtype(options).itemsize
        if needed > limits.tensor_bytes:
            detail = f"A tensor may have {limits.tensor_bytes} bytes. Ask for pt with partial_postprocess, or for mp4."
            raise ProblemError("not-acceptable", detail, limits.tensor_bytes, needed)


def latents_of(data: bytes, options: RemoteDecodeOptions) -> NDArray[np.float32]:
    """Return the bundle's own latents (b, t, h, w, c) in the bytes of a body.

    Raises:
        ProblemError: `invalid-tensor`.
    """
    tensor = read_binary(data, options.dtype, options.shape, "The tensor").reshape(_axes(options.shape, "Latents"))
    scaled = tensor.astype(np.float32, copy=False) / options.scaling_factor + options.shift_factor
    return np.moveaxis(scaled, 1, -1)


async def decode_batch(
    backend: Backend, card: ModelCard, latents: NDArray[np.float32], options: RemoteDecodeOptions, limits: Limits
) -> list[PixelResult]:
    """Decode latents (b, t, h, w, c) that `check_latents` let pass.

    Raises:
        ProblemError: for latents that the bundle cannot decode, and what the backend raises.
    """
    crop = DecodeOptions(model=card.id, height=options.height, width=options.width)
    meta = EncodeMeta(bundle=card.hash)
    return await gather_or_cancel(decode(backend, EncodeResult(meta, latents=item), crop, limits) for item in latents)


async def encode_batch(
    backend: Backend, media: Media, card: ModelCard, sources: Sequence[ClipSource], limits: Limits
) -> list[Encoding]:
    """Encode pictures or clips to the bundle's own latents (t, h, w, c).

    Raises:
        ProblemError: for anything wrong with the media, and what the backend raises.
    """
    options = EncodeOptions(model=card.id, output="latents")
    started = time.perf_counter()
    outcomes = await encode_many(backend, media, sources, options, limits, lambda *_: None, None, started)
    encoded = []
    for outcome in outcomes:
        if not isinstance(outcome, Encoding):
            raise outcome
        encoded.append(outcome)
    return encoded


def check_pixels(card: ModelCard, shape: Sequence[int], limits: Limits) -> None:
    """Refuse a tensor of pixels by its shape, before anybody works on it.

    Raises:
        ProblemError: `invalid-tensor`, `body-too-large`, `too-many-tokens`, `too-many-pixels`.
        MediaError: more frames or pixels than a request may have.
    """
    count, channels, frames, height, width = _axes(shape, "Pixels")
    if channels != 3:
        raise ProblemError("invalid-tensor", f"Pixels must have 3 channels, RGB, in axis 1; these have {channels}.")
    check_array((count * frames, height, width), limits)
    _check_batch(count, count * card.geometry.positions((frames, height, width)), limits)


def clips_of(data: bytes, dtype: DtypeName, shape: Sequence[int]) -> list[ClipSource]:
    """Return the items in the bytes of a tensor (b, 3, h, w) or (b, 3, t, h, w), floats in [-1, 1] or uint8.

    Raises:
        ProblemError: `invalid-tensor`.
    """
    tensor = read_binary(data, dtype, shape, "The tensor")
    clips = np.moveaxis(tensor.reshape(_axes(shape, "Pixels")), 1, -1)
    if clips.dtype != np.uint8:
        low, high = float(clips.min()), float(clips.max())
        if not (low >= -1 and high <= 1):  # NaN is out of range too
            detail = f"Pixels must be floats in [-1, 1]; these go from {low:g} to {high:g}. Scale them, or send uint8."
            raise ProblemError("invalid-tensor", detail)
        clips = np.rint((clips.astype(np.float32) + 1) * HALF_RANGE).astype(np.uint8)
    return [ClipSource(array=np.ascontiguousarray(clip)) for clip in clips]


def latents_tensor(encoded: Sequence[Encoding], options: RemoteEncodeOptions, has_frames: bool) -> NDArray[np.float32]:
    """Return the latents of equal items as the caller scales them, (b, c, t, h, w), or (b, c, h, w) without frames."""
    latents = np.moveaxis(np.stack([item.result.tensors["latents"] for item in encoded]), -1, 1)
    scaled = (latents - options.shift_factor) * options.scaling_factor
    return np.ascontiguousarray(scaled if has_frames else scaled[:, :, 0], np.float32)


def pixel_tensor(decoded: Sequence[PixelResult], options: RemoteDecodeOptions, has_frames: bool) -> NDArray[Any]:
    """Return pixels in the form that `output_type` and `partial_postprocess` name.

    Args:
        decoded: clips of one shape.
        options: as the caller gave them.
        has_frames: whether the latents had an axis of frames.

    Returns:
        pt: floats in [-1, 1], (b, 3, h, w) or (b, 3, t, h, w), or uint8 (n, h, w, 3) with `partial_postprocess`.
        pil: floats in [0, 1], (n, 3, h, w). Half precision distinguishes every value of uint8.
    """
    clips = np.stack([result.pixels for result in decoded])
    frames = clips.reshape(-1, *clips.shape[2:])
    if options.output_type == "pt" and options.partial_postprocess:
        return frames
    dtype = _pixel_dtype(options)
    if options.output_type == "pil":
        return np.ascontiguousarray(np.moveaxis(frames, -1, 1) / np.float32(255), dtype)
    planes = np.moveaxis(clips, -1, 1)
    return np.ascontiguousarray((planes if has_frames else planes[:, :, 0]) / np.float32(HALF_RANGE) - 1, dtype)


def _pixel_dtype(options: RemoteDecodeOptions) -> np.dtype[Any]:
    return np.dtype(np.float32 if options.dtype == "float32" else np.float16)


def _axes(shape: Sequence[int], name: str) -> tuple[int, int, int, int, int]:
    """Return the axes with one of frames."""
    if len(shape) not in (4, 5):
        detail = f"{name} must have the axes (b, c, h, w) or (b, c, t, h, w), not packed; their shape is {shape}."
        raise ProblemError("invalid-tensor", detail)
    count, channels, *frames, height, width = shape
    return count, channels, frames[0] if frames else 1, height, width


def _check_batch(items: int, positions: int, limits: Limits) -> None:
    if items > limits.body_items:
        detail = f"A batch may have {limits.body_items} items; this one has {items}. Send several."
        raise ProblemError("body-too-large", detail, limits.body_items, items)
    if positions > limits.tokens:
        detail = f"A batch may have {limits.tokens} latent positions; this one has {positions}. Send fewer items."
        raise ProblemError("too-many-tokens", detail, limits.tokens, positions)
