"""Containers of clips through FFmpeg: opened so that nothing but the given bytes is ever read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, NoReturn, Protocol

import av
from av.stream import Disposition

from media.errors import MediaError
from media.hidden_frames import holds_picture
from media.limits import MediaLimits, check_picture
from media.vpx import frame_sizes

CODECS = (
    "h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "h263", "mjpeg", "mpeg1video", "mpeg2video", "msmpeg4v2", "msmpeg4v3"
)  # fmt: skip
DEMUXERS = ("mov", "matroska", "avi")
TRUSTED_DEMUXERS = (*DEMUXERS, "mpeg", "mpegts", "ogg", "flv", "asf")

# FFmpeg's own decoders of these drop the alpha channel.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_ALPHA: Literal["matroska_block_additional"] = "matroska_block_additional"  # behind its number
_ALPHA_NUMBER_BYTES = 8
# Decoders round sides up to whole blocks before they compare with max_pixels; the exact limit is ours to check.
_BLOCK_FACTOR, _BLOCK_PIXELS = 1.25, 128 * 128


class _Nameless:
    """The reading half of a file, without its name: FFmpeg guesses formats and relative paths from names."""

    def __init__(self, file: Any) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _refuse_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("Media may not open other files.")


class Passing(Protocol):
    """A file that is read once, from its first byte to its last."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""


def open_container(file: BinaryIO | Passing, limits: MediaLimits | None) -> Any:
    """Open a container by its content, with no protocol and no way to open anything else.

    Args:
        file: the open file, in one of `DEMUXERS`, or of `TRUSTED_DEMUXERS` without limits. One that passes by is not
            bound to a time: its sender may be slow.
        limits: bounds, None for trusted files.
    """
    demuxers = TRUSTED_DEMUXERS if limits is None else DEMUXERS
    passes = not hasattr(file, "seek")
    return av.open(
        file if passes else _Nameless(file),
        container_options={"format_whitelist": ",".join(demuxers), "protocol_whitelist": "none"},
        io_open=_refuse_open,
        metadata_errors="ignore",  # titles in old encodings
        timeout=None if limits is None or passes else limits.decode_seconds,
    )


@contextmanager
def refusing_damage(media_type: str) -> Iterator[None]:
    """Turn every failure of FFmpeg inside into a refusal of the file.

    Raises:
        MediaError: "corrupt-media" or "decode-budget".
    """
    try:
        yield
    except av.error.MemoryError as error:  # mostly a damaged size field; FFmpeg stays sound
        raise MediaError("decode-budget", "Decoding the file asks for more memory than one may take.") from error
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # damaged files raise UnicodeDecodeError, IndexError, LookupError and more
        if isinstance(error, ConnectionError) and not isinstance(error, av.FFmpegError):
            raise  # the end of who sends a file that passes by
        raise corrupt(media_type, "it is damaged or cut off") from error


def corrupt(media_type: str, why: str) -> MediaError:
    """Return the refusal of a damaged file."""
    return MediaError("corrupt-media", f"The {media_type} file cannot be decoded: {why}.")


def video_stream(container: Any, limits: MediaLimits | None) -> Any:
    """Return the stream with moving pictures that players show: the first default one, else the first.

    Cover pictures do not count, and single ones only where there is nothing else.

    Raises:
        MediaError: "decode-budget", "no-video-stream" or "unsupported-codec".
    """
    count = sum(stream.type != "attachment" for stream in container.streams)  # fonts of subtitles
    if limits is not None and count > limits.streams:
        raise MediaError(
            "decode-budget",
            f"A file may hold {limits.streams} streams; this one has {count}.",
            limit=limits.streams,
            actual=count,
        )
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    streams.sort(key=lambda stream: (stream.frames == 1, not stream.disposition & Disposition.default))
    if not streams:
        others = sorted({stream.type for stream in container.streams if stream.type != "video"})
        pictures = ["cover pictures"] if container.streams.video else []
        found = " and ".join([*others, *pictures]) or "nothing"
        raise MediaError("no-video-stream", f"The file holds no video stream; it holds {found}.")
    known = (stream for stream in streams if stream.codec_context is not None)
    stream = next((stream for stream in known if limits is None or codec_name(stream) in CODECS), None)
    if stream is None:
        name, accepted = codec_name(streams[0]), "" if limits is None else f"; accepted are {', '.join(CODECS)}"
        raise MediaError("unsupported-codec", f"The video codec is {name}{accepted}.")
    if "enc_key_id" in stream.metadata:  # of WebM, whose packets say nothing
        raise _encrypted()
    return stream


def codec_name(stream: Any) -> str:
    """Return the canonical name of a stream's codec."""
    return "unknown" if stream.codec_context is None else stream.codec_context.codec.canonical_name


def decoder(stream: Any, limits: MediaLimits | None, may_reorder: bool) -> Any:
    """Return a codec context that decodes a stream in one thread, with its alpha channel.

    Args:
        stream: PyAV's.
        limits: bounds, None for trusted files.
        may_reorder: H.264 that does not say by how many frames it is reordered is taken for what its level allows;
            FFmpeg goes by its first frames, and loses later ones that are reordered by more.
    """
    context = stream.codec_context
    name = codec_name(stream)
    # In capitals where FFmpeg's own muxer repeats it as a tag.
    has_alpha = name in _ALPHA_DECODERS and "1" in map(stream.metadata.get, ("alpha_mode", "ALPHA_MODE"))
    stated = context.height * context.width
    if has_alpha:
        context = av.CodecContext.create(_ALPHA_DECODERS[name], "r")
    context.thread_type = "NONE"
    context.thread_count = 1
    # The only place where the decoder obeys them: as options of `av.open` they are silently ignored.
    context.options = {"strict": "1"} if may_reorder and name == "h264" else {}
    if limits is not None:
        context.options |= {"max_pixels": str(int(limits.video_pixels * _BLOCK_FACTOR) + _BLOCK_PIXELS)}
    if has_alpha:
        return _AlphaDecoder(context, name, limits, stated)
    return _PatientDecoder(context, name) if name in ("h264", "mpeg4") else context


class _AlphaDecoder:
    """A decoder of libvpx, which knows no `max_pixels`: what a damaged frame states could take many GiB.

    Args:
        context: PyAV's.
        codec: canonical name.
        limits: bounds, None for trusted files.
        stated: pixels of a frame by the container.
    """

    def __init__(self, context: Any, codec: str, limits: MediaLimits | None, stated: int) -> None:
        self._context, self._codec, self._limits = context, codec, limits
        self._most = max(stated, MediaLimits().video_pixels)

    def decode(self, packet: Any) -> list[Any]:
        """Decode a packet of PyAV's, or None for the end.

        Raises:
            MediaError: "too-many-pixels".
            ValueError: a frame of a trusted file is far larger than its clip.
        """
        parts = [] if packet is None else [bytes(packet)]
        if parts and packet.has_sidedata(_ALPHA):
            parts.append(bytes(packet.get_sidedata(_ALPHA))[_ALPHA_NUMBER_BYTES:])
        for height, width in (size for part in parts for size in frame_sizes(self._codec, part)):
            check_picture(self._limits, height, width, is_video=True)
            if height * width > self._most:
                raise ValueError(f"A frame of {height}x{width} pixels is far larger than its clip.")
        frames: list[Any] = self._context.decode(packet)
        return frames


class _PatientDecoder:
    """A decoder that FFmpeg lets fail at packets which hold parameters or messages alone.

    Args:
        context: PyAV's.
        codec: canonical name.
    """

    def __init__(self, context: Any, codec: str) -> None:
        self._context, self._codec, self._extradata = context, codec, context.extradata

    def decode(self, packet: Any) -> list[Any]:
        """Decode a packet of PyAV's, or None for the end."""
        try:
            frames: list[Any] = self._context.decode(packet)
        except av.error.InvalidDataError:
            if packet is None or holds_picture(self._codec, packet, self._extradata):
                raise
            return []
        return frames


def check_encryption(packet: Any) -> None:
    """Refuse a packet that nobody without a key can decode with "unsupported-codec"."""
    if packet.has_sidedata("encryption_info"):
        raise _encrypted()


def _encrypted() -> MediaError:
    return MediaError("unsupported-codec", "The clip is encrypted; send one that plays without a key.")
