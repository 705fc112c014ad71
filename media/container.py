"""Containers of clips through FFmpeg: opened so that nothing but the given bytes is ever read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn, Protocol

import av
from av.stream import Disposition

from media.alpha_decoder import AlphaDecoder
from media.errors import MediaError
from media.hidden_frames import holds_picture
from media.limits import MediaLimits

CODECS = (
    "h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "h263", "mjpeg", "mpeg1video", "mpeg2video", "msmpeg4v2", "msmpeg4v3"
)  # fmt: skip
DEMUXERS = ("mov", "matroska", "avi")
TRUSTED_DEMUXERS = (*DEMUXERS, "mpeg", "mpegts", "ogg", "flv", "asf")

_WITH_ALPHA = ("vp8", "vp9")
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
    # Fonts of subtitles, and what phones measure meanwhile, have no decoder.
    count = sum(stream.type not in ("attachment", "data") for stream in container.streams)
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
    name, colours = codec_name(stream), stream.codec_context
    # In capitals where FFmpeg's own muxer repeats it as a tag.
    has_alpha = name in _WITH_ALPHA and "1" in map(stream.metadata.get, ("alpha_mode", "ALPHA_MODE"))
    # What a damaged frame of a trusted file states could take many GiB.
    most = max(colours.height * colours.width, MediaLimits().video_pixels) if limits is None else limits.video_pixels
    contexts = [colours, av.CodecContext.create(name, "r")] if has_alpha else [colours]
    for context in contexts:
        context.thread_type = "NONE"
        context.thread_count = 1
        # The only place where the decoder obeys them: as options of `av.open` they are silently ignored.
        context.options = {"max_pixels": str(int(most * _BLOCK_FACTOR) + _BLOCK_PIXELS)}
        if may_reorder and name == "h264":
            context.options |= {"strict": "1"}
    if has_alpha:
        return AlphaDecoder(*contexts)
    return _PatientDecoder(colours, name) if name in ("h264", "mpeg4") else colours


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
