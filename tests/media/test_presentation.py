"""Clips that are shown as their containers say: cropping, colours, Dolby Vision."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_samples import pattern, psnr, video
from numpy.typing import NDArray
from variants import MATRICES, with_matrix

from media.ebml import ebml_size
from media.errors import MediaError
from media.faststart import faststart
from media.limits import MediaLimits
from media.presentation import as_matroska
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream

CLIP = pattern(4, 48, 64)
SHARP = {"crf": "1", "preset": "ultrafast"}
ANCESTORS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
# Width and height of what is shown, and how far its middle is from that of the frame.
CROPPED = (48, 32, 4, -2)
SHOWN = CLIP[:, 6:38, 12:60]
BT709, BT2020, PQ = 1, 9, 16


def with_box(mp4: bytes, kind: bytes, body: bytes) -> bytes:
    """Return an mp4 with one more box in the description of its video stream."""
    box = struct.pack(">I4s", 8 + len(body), kind) + body
    entry, configuration = (b"avc1", b"avcC") if b"avcC" in mp4 else (b"av01", b"av1C")
    at, start = mp4.index(configuration) - 4, mp4.index(b"moov") - 4
    data = bytearray(mp4[:at] + box + mp4[at:])
    for name in (*ANCESTORS, entry):
        start = mp4.index(name, start) - 4
        (size,) = struct.unpack_from(">I", data, start)
        struct.pack_into(">I", data, start, size + len(box))
    return bytes(data)


def with_clap(mp4: bytes, width: int, height: int, right: int, down: int, unit: int = 1) -> bytes:
    return with_box(mp4, b"clap", struct.pack(">8i", width, unit, height, unit, right, 1, down, 1))


def remuxed(data: bytes, container: str, **tags: int) -> bytes:
    """Copy the packets of a clip into another container, with other tags."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as target:
        copy: Any = target.add_stream_from_template(source.streams.video[0])
        for name, value in tags.items():
            setattr(copy.codec_context, name, value)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux_one(packet)
    return buffer.getvalue()


def filtered(data: bytes, name: str, container: str) -> bytes:
    """Copy the packets of a clip through a filter of FFmpeg."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as target:
        stream = source.streams.video[0]
        bitstream, copy = av.BitStreamFilterContext(name, stream), target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            for made in bitstream.filter(packet if packet.size else None):
                made.stream = copy
                target.mux_one(made)
    return buffer.getvalue()


def read(data: bytes) -> NDArray[np.uint8]:
    """Return the frames of a clip, the same whole and while it arrives."""
    reader = open_frames(io.BytesIO(data), MediaLimits())
    frames = np.stack(list(reader))
    assert (reader.info().height, reader.info().width) == frames.shape[1:3]
    file = io.BytesIO(data)
    first = io.BytesIO(b"".join(piece for span in faststart(file) for piece in span.pieces(file, 1 << 20)))
    arriving = ClipStream(first.read, reader.info().media_type, MediaOptions(), MediaLimits())
    assert np.array_equal(np.stack(list(arriving)), frames)
    return frames


MP4 = video(CLIP, options=SHARP)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_edges_that_a_container_cuts_off_are_not_shown(container: str) -> None:
    data = with_clap(MP4, *CROPPED)
    assert psnr(read(data if container == "mp4" else remuxed(data, container)), SHOWN) > 36


def test_edges_of_av1_are_cut_off_too() -> None:
    data = Path(__file__).with_name("av1.mp4").read_bytes()
    whole = read(data)
    height, width = whole.shape[1:3]
    cut = read(with_clap(data, width - 16, height - 8, 0, 0))
    assert np.array_equal(cut, whole[:, 4 : height - 4, 8 : width - 8])


def test_what_is_cut_is_then_turned_and_stretched() -> None:
    turned = with_matrix(with_clap(MP4, *CROPPED), (0, 1, -1, 0))
    assert psnr(read(turned), np.rot90(SHOWN, -1, (1, 2))) > 36
    wide = video(CLIP, options=SHARP | {"x264-params": "sar=2\\:1"})
    assert read(with_clap(wide, *CROPPED)).shape == (4, 32, 96, 3)


@pytest.mark.parametrize("name", MATRICES)
def test_clips_with_alpha_are_turned(name: str) -> None:
    """Their decoders do not pass on how the container turns them."""
    coding = {"deadline": "realtime", "crf": "4"}
    opaque = with_matrix(video(CLIP, "libvpx-vp9", options=coding), MATRICES[name])
    clear = video(CLIP, "libvpx-vp9", "webm", options=coding, pixel_format="yuva420p")
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(opaque)) as turned,
        av.open(io.BytesIO(clear)) as source,
        av.open(buffer, "w", format="matroska") as target,
    ):
        copy = target.add_stream_from_template(turned.streams.video[0])
        copy.metadata["alpha_mode"] = "1"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux_one(packet)
    frames = read(buffer.getvalue())
    assert np.array_equal(frames, read(opaque))
    assert frames.shape[1:3] == ((64, 48) if MATRICES[name][0] == 0 else (48, 64))


@pytest.mark.parametrize(("yaw", "roll"), [(10, 0), (0, 90), (180, 180)])
def test_where_a_sphere_is_looked_at_turns_nothing(yaw: int, roll: int) -> None:
    """Matroska states the turns of plain clips in the same way."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), kind) + body

    pose = box(b"prhd", struct.pack(">4i", 0, yaw << 16, 0, roll << 16))
    sphere = box(b"svhd", bytes(4) + b"maker\0") + box(b"proj", pose + box(b"equi", bytes(20)))
    assert np.array_equal(read(with_box(MP4, b"sv3d", sphere)), read(MP4))


def test_the_size_that_a_file_states_is_that_of_the_cut_frame() -> None:
    data = with_clap(MP4, *CROPPED)
    at = data.index(b"tkhd") + 80
    data = data[:at] + struct.pack(">2I", CROPPED[0] << 16, CROPPED[1] << 16) + data[at + 8 :]
    assert read(data).shape == SHOWN.shape


@pytest.mark.parametrize("clap", [(64, 48, 0, 0), (640, 480, 0, 0), (-8, 48, 0, 0), (48, 32, 4, -2, 0), (8, 8, 99, 0)])
def test_nonsense_cuts_nothing(clap: tuple[int, ...]) -> None:
    assert read(with_clap(MP4, *clap)).shape == CLIP.shape


def test_limits_hold_for_what_is_decoded() -> None:
    with pytest.raises(MediaError) as caught:
        list(open_frames(io.BytesIO(with_clap(MP4, *CROPPED)), MediaLimits(video_side=63)))
    assert caught.value.code == "too-many-pixels"


def test_a_header_has_no_random_identifiers() -> None:
    """FFmpeg would open a device for them, or spend a tenth of a second where it may not."""
    with av.open(io.BytesIO(MP4)) as container:
        assert as_matroska(container.streams.video[0]) == as_matroska(container.streams.video[0]) != b""


@pytest.mark.parametrize("tags", [(BT709, BT709, BT709), (BT2020, BT2020, PQ)])
def test_colours_that_only_the_container_states_apply(tags: tuple[int, int, int]) -> None:
    """VP9 has no transfer and no primaries, and may leave its matrix open."""
    names = dict(zip(("colorspace", "color_primaries", "color_trc"), tags, strict=True))
    plain = video(CLIP, "libvpx-vp9", "webm", options={"deadline": "realtime", "b": "3M"})
    like = video(CLIP, options=SHARP)
    shown, expected = read(remuxed(plain, "webm", **names)), read(remuxed(like, "matroska", **names))
    assert psnr(shown, expected) > 32 > psnr(read(plain), expected)


@pytest.mark.parametrize(
    ("turn", "shown"), [("rotate=90", np.rot90(CLIP, 1, (1, 2))), ("flip=horizontal", CLIP[:, :, ::-1])]
)
def test_a_turn_that_a_stream_states_once_holds_for_all_frames(turn: str, shown: NDArray[np.uint8]) -> None:
    data = filtered(
        video(CLIP, container="avi", options=SHARP), f"h264_metadata=display_orientation=insert:{turn}", "avi"
    )
    assert psnr(read(data), shown) > 36
    window = open_frames(io.BytesIO(data), MediaLimits(), MediaOptions(start_s=2 / 24))
    assert psnr(np.stack(list(window)), shown[2:]) > 36


@pytest.mark.parametrize(("profile", "compatible"), [(5, 0), (10, 0), (8, 4), (8, 1), (10, 4)])
def test_dolby_vision_is_refused_where_nothing_else_shows_it(profile: int, compatible: int) -> None:
    body = bytes([1, 0, profile << 1, 0b1101, compatible << 4]) + bytes(19)
    data = with_box(MP4, b"dvcC" if profile < 8 else b"dvvC", body)
    if compatible:
        assert psnr(read(data), CLIP) > 36
        return
    with pytest.raises(MediaError, match=f"Dolby Vision profile {profile}") as caught:
        read(data)
    assert caught.value.code == "unsupported-codec"


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_an_encrypted_clip_is_called_so(codec: str) -> None:
    buffer = io.BytesIO()
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76" * 16, "encryption_kid": "a7" * 16}
    options["movflags"] = "frag_keyframe+empty_moov+default_base_moof"
    plain = io.BytesIO(video(CLIP, codec, options={}))
    with av.open(plain) as source, av.open(buffer, "w", format="mp4", container_options=options) as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux_one(packet)
    data = buffer.getvalue()
    with pytest.raises(MediaError, match="encrypted") as caught:
        open_frames(io.BytesIO(data), MediaLimits())
    assert caught.value.code == "unsupported-codec"
    with pytest.raises(MediaError, match="encrypted"):
        list(ClipStream(io.BytesIO(data).read, "video/mp4", MediaOptions(), MediaLimits()))


def element(name: str, body: bytes) -> bytes:
    return bytes.fromhex(name) + (0x4000 | len(body)).to_bytes(2, "big") + body


def test_an_encrypted_webm_is_called_so() -> None:
    """Its key is named in the header of its track, and its packets are noise."""
    data = video(CLIP, "libvpx", "webm", options={"deadline": "realtime"})
    key = element("5033", b"\1") + element("5035", element("47e1", b"\5") + element("47e2", bytes(16)))
    encodings = element("6d80", element("6240", key))
    segment, tracks = data.index(bytes.fromhex("18538067")), data.rindex(bytes.fromhex("1654ae6b"))
    size, start = ebml_size(data, tracks + 4)
    entry = data.index(b"\xae", start)
    entry_size, entry_start = ebml_size(data, entry + 1)
    assert size is not None
    assert entry_size is not None
    end = entry_start + entry_size
    body = data[start:entry] + element("ae", data[entry_start:end] + encodings) + data[end : start + size]
    unknown = b"\x01" + 7 * b"\xff"
    made = (
        data[: segment + 4] + unknown + data[segment + 12 : tracks] + element("1654ae6b", body) + data[start + size :]
    )
    with pytest.raises(MediaError, match="encrypted") as caught:
        open_frames(io.BytesIO(made), MediaLimits())
    assert caught.value.code == "unsupported-codec"


def test_fields_of_hevc_have_the_height_of_their_frames() -> None:
    fields = np.stack([frame[place::2] for frame in CLIP for place in (0, 1)]).repeat(2, 2)
    data = video(fields, "libx265", options={"crf": "5", "x265-params": "log-level=none:interlace=tff"}, fps=48)
    reader = open_frames(io.BytesIO(data), MediaLimits())
    assert psnr(np.stack(list(reader))[::2], CLIP.repeat(2, 2)) > 25
    assert (reader.info().height, reader.info().width) == (48, 128)
    with pytest.raises(MediaError) as caught:
        list(open_frames(io.BytesIO(data), MediaLimits(clip_pixels=len(fields) * 24 * 128)))
    assert caught.value.code == "too-many-pixels"


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_the_full_range_applies_that_a_container_states_for_codecs_without_any(codec: str) -> None:
    """VP8 cannot state it; VP9 does, and has the last word."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as file:
        stream: Any = file.add_stream(codec, rate=24, options={"deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, sample in zip(frame.planes, (200, 128, 128), strict=True):
            plane.update(bytes([sample]) * plane.buffer_size)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    limited = round((200 - 16) * 255 / 219)
    assert np.abs(read(buffer.getvalue()).astype(int) - limited).max() <= 2
    marked = read(remuxed(buffer.getvalue(), "webm", color_range=2))
    assert np.abs(marked.astype(int) - (200 if codec == "libvpx" else limited)).max() <= 2
