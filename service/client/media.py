"""Values that callers have in hand, as request bodies: paths, bytes, open files, pictures, arrays and tensors."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from media.identify import HEAD_BYTES, sniff
from service.formats.media_types import OCTET_STREAM
from service.formats.result import EncodeMeta, EncodeResult

if TYPE_CHECKING:
    from PIL.Image import Image

# Modes that PNG stores without loss. A picture in another one has a profile that a conversion here would ignore.
PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})
PNG_LEVEL = 1  # the next level takes twice the time for a tenth of the bytes
WIRE_INTEGERS = frozenset({"|u1", "<u2", "<u4", "<i4", "<i8"})


class BinaryFile(Protocol):
    """An open file or stream of bytes."""

    def read(self) -> bytes:
        """Return the bytes from the current position to the end."""
        ...


class Tensor(Protocol):
    """A tensor of torch, or of a library that looks like it."""

    @property
    def dtype(self) -> Any:
        """Return the type of its elements."""
        ...

    def detach(self) -> Any:
        """Return it without its gradient."""
        ...


class ArrayLike(Protocol):
    """Anything that numpy turns into an array by itself."""

    def __array__(self) -> NDArray[Any]:
        """Return it as an array."""
        ...


Media: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image | NDArray[Any] | Tensor | ArrayLike"
)
Codes: TypeAlias = EncodeResult | NDArray[Any] | Tensor | ArrayLike
Body: TypeAlias = bytes | Path | NDArray[np.uint8]


def media_body(media: Media, animated: bool = False) -> Body:
    """Return the bytes of a file, the path of one, or pixels.

    Args:
        media: a path; the bytes of a picture or clip; a file open in binary mode, read from where it is to its end; a
            PIL picture; or RGB pixels from 0 to 255 in an array or tensor, uint8 (H, W, 3) or (T, H, W, 3).
        animated: whether the caller asks for all frames of an animation.

    Raises:
        TypeError: the value is of another kind, or its pixels are not uint8.
        ValueError: the pixels have another shape, or the picture cannot travel without loss.
    """
    if isinstance(media, str | os.PathLike):
        return Path(media)
    if isinstance(media, bytes | bytearray | memoryview):
        return bytes(media)
    if hasattr(media, "getexif"):
        return _png(media, animated)  # type: ignore[arg-type]
    if hasattr(media, "read"):
        data = media.read()
        if not isinstance(data, bytes):
            raise TypeError(f"The file yields {type(data).__name__}; open it in binary mode, with open(path, 'rb').")
        return data
    return _pixels(media)


def content_type(body: bytes | Path) -> str:
    """Return the media type of a file by its first bytes.

    Raises:
        OSError: the path cannot be read.
    """
    if isinstance(body, Path):
        with body.open("rb") as file:
            head = file.read(HEAD_BYTES)
    else:
        head = body[:HEAD_BYTES]
    return sniff(head) or OCTET_STREAM


def codes_result(codes: Codes, bundle: str | None) -> EncodeResult:
    """Return tokens or latents as a result.

    Args:
        codes: a result, as it is; or tokens, integers (t, h, w), or latents, floats (t, h, w, c).
        bundle: hash of the bundle that made a bare array.

    Raises:
        TypeError: the value is not an array of numbers.
        ProblemError: the array has another shape.
    """
    if isinstance(codes, EncodeResult):
        return codes
    array = _array(codes)
    if array.dtype.kind == "f":
        return EncodeResult(EncodeMeta(bundle=bundle), latents=array.astype(np.float32, copy=False))
    if array.dtype.kind in "iu":
        tokens = array if array.dtype.str in WIRE_INTEGERS else array.astype(np.int64)
        return EncodeResult(EncodeMeta(bundle=bundle), tokens=tokens)
    raise TypeError(f"Codes of dtype {array.dtype} cannot be decoded; pass integer tokens or float latents.")


def _png(picture: Image, animated: bool) -> bytes:
    if picture.mode not in PNG_MODES:
        raise ValueError(
            f"A PIL picture of mode {picture.mode} has no lossless form here; pass its file, which keeps its colour "
            "profile, or picture.convert('RGB')."
        )
    if animated and getattr(picture, "n_frames", 1) > 1:
        raise ValueError("A PIL picture is sent as its current frame; pass the animation's file for animated=True.")
    file = io.BytesIO()
    # Pillow leaves out the orientation unless it is given one, and the picture would lie on its side.
    picture.save(file, "PNG", compress_level=PNG_LEVEL, exif=picture.getexif())
    return file.getvalue()


def _pixels(media: Any) -> NDArray[np.uint8]:
    array = _array(media)
    if array.dtype != np.uint8:
        raise TypeError(
            f"Pixels of dtype {array.dtype} are refused, because their range is a guess; pass uint8 RGB from 0 to 255. "
            "Floats from 0 to 1 become so by (255 * x).round(), clipped to 0 and 255, as uint8; "
            "floats from -1 to 1 by x / 2 + 0.5 first."
        )
    if array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise ValueError(f"Pixels of shape {array.shape} are refused: pass (H, W, 3) or (T, H, W, 3).{_remedy(array)}")
    return array


def _remedy(array: NDArray[Any]) -> str:
    if array.ndim in (3, 4) and array.shape[-3] == 3:
        return " These look like channels first; np.moveaxis(x, -3, -1) or x.movedim(-3, -1) puts them last."
    if array.ndim == 5:
        return " Send the clips of a batch one by one; the service batches them."
    return ""


def _array(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        # numpy has no bfloat16; float32 holds each of its values exactly.
        return np.asarray((tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy())
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise TypeError(
        f"A value of type {type(value).__name__} cannot be sent; pass a path, bytes, a binary file, a PIL picture, "
        "an array or a tensor."
    )
