"""Tensors as diffusers lays them out: batches of latents to pixels in [-1, 1], and back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from service.errors import ProblemError
from service.formats.binary import DtypeName
from service.formats.result import EncodeMeta, EncodeResult
from service.operations.bundles import find_card
from service.operations.clip import ClipSource, PixelResult, check_array
from service.operations.decode import decode
from service.operations.encode import Encoding, encode
from service.operations.options import DecodeOptions, EncodeOptions, RouteOptions, Side
from service.settings import Limits
from service.types import Backend, Media, ModelCard

HALF_RANGE = 127.5  # of uint8, which [-1, 1] spans

T = TypeVar("T")
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


async def decode_batch(
    backend: Backend, card: ModelCard, tensor: NDArray[np.float32], options: RemoteDecodeOptions, limits: Limits
) -> list[PixelResult]:
    """Decode latents (b, c, h, w) of pictures or (b, c, t, h, w) of clips.

    Raises:
        ProblemError: for latents that the bundle cannot decode, and what the backend raises.
    """
    clips = _with_frames(tensor, "Latents")
    _check_batch(len(clips), clips[:, 0].size, limits)
    latents = np.moveaxis(clips / options.scaling_factor + options.shift_factor, 1, -1)
    crop = DecodeOptions(model=card.id, height=options.height, width=options.width)
    meta = EncodeMeta(bundle=card.hash)
    return await _together(decode(backend, EncodeResult(meta, latents=item), crop, limits) for item in latents)


async def encode_batch(
    backend: Backend, media: Media, card: ModelCard, sources: Sequence[ClipSource], limits: Limits
) -> list[Encoding]:
    """Encode pictures or clips to the bundle's own latents (t, h, w, c).

    Raises:
        ProblemError: for anything wrong with the media, and what the backend raises.
    """
    options = EncodeOptions(model=card.id, output="latents")
    return await _together(encode(backend, media, source, options, limits) for source in sources)


def clips_of(tensor: NDArray[Any], card: ModelCard, limits: Limits) -> list[ClipSource]:
    """Return the items of a tensor (b, 3, h, w) or (b, 3, t, h, w), floats in [-1, 1] or uint8.

    Raises:
        ProblemError: `invalid-tensor`, `too-many-tokens`.
        MediaError: more pixels than a request may have.
    """
    clips = np.moveaxis(_with_frames(tensor, "Pixels"), 1, -1)
    count, frames, height, width, channels = clips.shape
    if channels != 3:
        raise ProblemError("invalid-tensor", f"Pixels must have 3 channels, RGB, in axis 1; these have {channels}.")
    check_array((count * frames, height, width), limits)
    _check_batch(count, count * card.geometry.positions((frames, height, width)), limits)
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


def pixel_tensor(
    decoded: Sequence[PixelResult], options: RemoteDecodeOptions, has_frames: bool, limits: Limits
) -> NDArray[Any]:
    """Return pixels in the form that `output_type` and `partial_postprocess` name.

    Args:
        decoded: clips of one shape.
        options: as the caller gave them.
        has_frames: whether the latents had an axis of frames.
        limits: of one request.

    Raises:
        ProblemError: `not-acceptable`, the floats would take more bytes than the tensor of a request may.

    Returns:
        pt: floats in [-1, 1], (b, 3, h, w) or (b, 3, t, h, w), or uint8 (n, h, w, 3) with `partial_postprocess`.
        pil: floats in [0, 1], (n, 3, h, w). Half precision holds every value of uint8 apart.
    """
    clips = np.stack([result.pixels for result in decoded])
    frames = clips.reshape(-1, *clips.shape[2:])
    if options.output_type == "pt" and options.partial_postprocess:
        return frames
    dtype = np.dtype(np.float32 if options.dtype == "float32" else np.float16)
    if clips.size * dtype.itemsize > limits.tensor_bytes:
        detail = f"A tensor may have {limits.tensor_bytes} bytes. Ask for pt with partial_postprocess, or for mp4."
        raise ProblemError("not-acceptable", detail, limits.tensor_bytes, clips.size * dtype.itemsize)
    if options.output_type == "pil":
        return np.ascontiguousarray(np.moveaxis(frames, -1, 1) / np.float32(255), dtype)
    planes = np.moveaxis(clips, -1, 1)
    return np.ascontiguousarray((planes if has_frames else planes[:, :, 0]) / np.float32(HALF_RANGE) - 1, dtype)


def _with_frames(tensor: NDArray[Any], name: str) -> NDArray[Any]:
    if tensor.ndim not in (4, 5):
        detail = (
            f"{name} must have the axes (b, c, h, w) or (b, c, t, h, w), not packed; their shape is {tensor.shape}."
        )
        raise ProblemError("invalid-tensor", detail)
    return tensor if tensor.ndim == 5 else tensor[:, :, None]


def _check_batch(items: int, positions: int, limits: Limits) -> None:
    if items > limits.body_items:
        detail = f"A batch may have {limits.body_items} items; this one has {items}. Send several."
        raise ProblemError("body-too-large", detail, limits.body_items, items)
    if positions > limits.tokens:
        detail = f"A batch may have {limits.tokens} latent positions; this one has {positions}. Send fewer items."
        raise ProblemError("too-many-tokens", detail, limits.tokens, positions)


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all; the first failure ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
