"""Clips that phones, recorders and other muxers write, on which readers commonly go wrong."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from media_samples import X264, audio_only, pattern, psnr, video
from numpy.typing import NDArray
from PIL import Image

from media.errors import MediaError
from media.identify import sniff
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream
from service.settings import Limits

CLIP = pattern(3, 64, 96)


def read(data: bytes, options: MediaOptions | None = None, limits: Limits | None = None) -> NDArray[np.uint8]:
    """Read all kept frames, under the service's limits if none are given."""
    return np.stack(list(open_frames(io.BytesIO(data), Limits() if limits is None else limits, options)))


def with_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """Return an mp4 with its display matrix replaced; the shift stays zero."""
    start = mp4.index(b"tkhd") + 44
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return mp4[:start] + matrix + mp4[start + len(matrix) :]


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), CLIP),
        ((-1, 0, 0, 1), CLIP[:, :, ::-1]),
        ((1, 0, 0, -1), CLIP[:, ::-1]),
        ((-1, 0, 0, -1), CLIP[:, ::-1, ::-1]),
        ((0, 1, 1, 0), CLIP.swapaxes(1, 2)),
        ((0, -1, -1, 0), CLIP.swapaxes(1, 2)[:, ::-1, ::-1]),
        ((0, 1, -1, 0), np.rot90(CLIP, -1, (1, 2))),
        ((0, -1, 1, 0), np.rot90(CLIP, 1, (1, 2))),
    ],
)
def test_display_matrices_turn_and_mirror(matrix: tuple[int, int, int, int], shown: NDArray[np.uint8]) -> None:
    assert psnr(read(with_matrix(video(CLIP), *matrix)), shown) > 28


def with_aspect(aspect: str) -> bytes:
    """The clip as an mp4 whose pixels are not square."""
    sar = {"crf": "10", "preset": "ultrafast", "x264-params": f"sar={aspect}"}
    return video(CLIP, options=sar)


@pytest.mark.parametrize(("aspect", "size"), [("2\\:1", (64, 192)), ("1\\:2", (128, 96)), ("4\\:3", (64, 128))])
def test_pixels_come_out_square_and_nothing_shrinks(aspect: str, size: tuple[int, int]) -> None:
    data = with_aspect(aspect)
    shown = np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1])) for frame in CLIP])
    reader = open_frames(io.BytesIO(data), Limits(), None)
    assert psnr(np.stack(list(reader)), shown) > 28
    assert (reader.info().height, reader.info().width) == size
    turned = read(with_matrix(data, 0, 1, -1, 0))
    assert psnr(turned, np.rot90(shown, -1, (1, 2))) > 28
    assert read(data, MediaOptions(size=(64, 96), fit="cover")).shape == CLIP.shape


@pytest.mark.parametrize(
    "limits", [Limits(video_side=191), Limits(video_pixels=64 * 192 - 1), Limits(kept_pixels=64 * 192 - 1)]
)
def test_limits_hold_for_the_stretched_frame(limits: Limits) -> None:
    with pytest.raises(MediaError) as caught:
        read(with_aspect("2\\:1"), limits=limits)
    assert caught.value.code == "too-many-pixels"


def with_pasp(width: int, height: int) -> bytes:
    """An mp4 whose container states another pixel aspect ratio than its codec, which says 3:2."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream: Any = file.add_stream("libx264", rate=24, options=X264)
        stream.height, stream.width, stream.pix_fmt = *CLIP.shape[1:3], "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for pixels in CLIP:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    data = buffer.getvalue()
    at = data.index(b"pasp") + 4
    assert struct.unpack_from(">II", data, at) == (3, 2)
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


@pytest.mark.parametrize(
    ("pasp", "size"), [((2, 1), (64, 192)), ((1, 2), (128, 96)), ((1, 1), (64, 96)), ((1008, 1000), (64, 96))]
)
def test_the_aspect_of_the_container_is_what_players_show(pasp: tuple[int, int], size: tuple[int, int]) -> None:
    assert read(with_pasp(*pasp)).shape == (3, *size, 3)


@pytest.mark.parametrize("pasp", [(10**6, 1), (1, 10**6)])
def test_limits_hold_for_absurd_aspects(pasp: tuple[int, int]) -> None:
    with pytest.raises(MediaError) as caught:
        read(with_pasp(*pasp))
    assert caught.value.code == "too-many-pixels"


@pytest.mark.parametrize("pasp", [(0, 0), (1, 0), (0, 1), (2**31, 1), (1, 2**32 - 1)])
def test_nonsense_for_an_aspect_counts_for_nothing(pasp: tuple[int, int]) -> None:
    assert read(with_pasp(*pasp)).shape in ((3, 64, 96, 3), (3, 64, 144, 3))


def test_only_the_window_counts_for_the_duration() -> None:
    frames = pattern(150, 16, 16)
    data = video(frames, fps=1, options={"crf": "20", "g": "10"})
    with pytest.raises(MediaError) as caught:
        read(data)
    assert caught.value.code == "too-long"
    assert "`end_s`" in caught.value.detail
    assert len(read(data, MediaOptions(frames=17, end_s=10.0))) == 10
    assert len(read(data, MediaOptions(start_s=100.0))) == 50
    with pytest.raises(MediaError) as caught:
        read(data, MediaOptions(start_s=10.0, end_s=1000.0, frames=3))
    assert caught.value.actual == pytest.approx(140.0)


def test_a_short_window_of_a_long_clip_is_read() -> None:
    one = video(np.zeros((1, 16, 16, 3), np.uint8))
    buffer = io.BytesIO()
    with av.open(io.BytesIO(one)) as source, av.open(buffer, "w", format="mp4") as target:
        (packet,) = (packet for packet in source.demux(video=0) if packet.size)
        copy = target.add_stream_from_template(source.streams.video[0])
        for number in range(20_000):
            repeated = av.Packet(bytes(packet))
            repeated.stream, repeated.time_base, repeated.is_keyframe = copy, Fraction(1, 24), True
            repeated.pts = repeated.dts = number
            target.mux_one(repeated)
    assert len(read(buffer.getvalue(), MediaOptions(start_s=400.0, end_s=500.0, frames=17))) == 17


def test_frames_that_share_a_packet_keep_their_order() -> None:
    """DivX packs the frame that others refer to with the first of these, and leaves an empty packet later."""
    clip = pattern(12, 64, 96)
    with av.open(io.BytesIO(video(clip, "mpeg4", "avi", fps=25, options={"bf": "2", "b": "4M"}))) as plain:
        stored = [bytes(packet) for packet in plain.demux(video=0) if packet.size]
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="avi") as file:
            copy = file.add_stream_from_template(plain.streams.video[0])
            for number, data in enumerate(packed(stored)):
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = copy, Fraction(1, 25), number == 0
                packet.pts = packet.dts = number
                file.mux_one(packet)
    reader = open_frames(io.BytesIO(buffer.getvalue()), Limits())
    frames = list(reader)
    assert psnr(np.stack(frames), clip) > 35
    assert reader.info().sampled_pts == pytest.approx(np.arange(12) / 25)


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "matroska", {"x264-params": "open-gop=1:bframes=3"}),
        ("libvpx-vp9", "webm", {"deadline": "realtime"}),
        ("mpeg4", "avi", {"b": "4M", "bf": "2"}),
        ("mpeg4", "mp4", {"b": "4M", "bf": "2"}),
    ],
)
def test_a_clip_without_its_first_packets_begins_with_the_next_key_frame(
    codec: str, container: str, options: dict[str, str]
) -> None:
    clip = pattern(40, 64, 96)
    buffer = io.BytesIO()
    whole = video(clip, codec, container, fps=25, options=options | {"g": "12"})
    with av.open(io.BytesIO(whole)) as source, av.open(buffer, "w", format=container) as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][5:]:
            packet.stream = copy
            target.mux_one(packet)
    made = read(buffer.getvalue())
    assert 25 <= len(made) <= 30
    assert psnr(made, clip[-len(made) :]) > 30


def packed(frames: list[bytes]) -> list[bytes]:
    """Pack MPEG-4 frames, in stored order, as DivX does."""
    start = b"\0\0\1\xb6"
    is_b = [data[data.index(start) + 4] >> 6 == 2 for data in frames]
    at = frames[0].index(start)
    made = [frames[0][:at] + b"\0\0\1\xb2DivX503b1393p" + frames[0][at:]]
    number = 1
    while number < len(frames):
        end = number + 1
        while end < len(frames) and is_b[end]:
            end += 1
        group = frames[number:end]
        made += [b"".join(group[:2]), *group[2:], *[start + b"\x50\x5f"] * (len(group) > 1)]
        number = end
    return made


@pytest.mark.parametrize(
    ("codec", "container", "pixel_format"),
    [
        ("msmpeg4", "avi", "yuv420p"),
        ("msmpeg4v2", "avi", "yuv420p"),
        ("mjpeg", "avi", "yuvj420p"),
        ("mjpeg", "mov", "yuvj420p"),
        ("mpeg4", "3gp", "yuv420p"),
        ("h263", "3gp", "yuv420p"),
        ("mpeg2video", "matroska", "yuv420p"),
    ],
)
def test_older_codecs_are_read(codec: str, container: str, pixel_format: str) -> None:
    clip = pattern(4, 144, 176)
    data = video(clip, codec, container, fps=25, options={"b": "8M"}, pixel_format=pixel_format)
    # H.263 states pixels that are not square.
    assert psnr(read(data, MediaOptions(size=(144, 176), fit="stretch")), clip) > 28


def test_a_refused_codec_is_named() -> None:
    data = video(CLIP, "prores", "mov", options={}, pixel_format="yuv422p10le")
    with pytest.raises(MediaError, match=r"codec is prores; accepted are h264, .*mpeg4") as caught:
        read(data)
    assert caught.value.code == "unsupported-codec"


@pytest.mark.parametrize("limits", [None, Limits()])
def test_a_codec_that_nobody_knows_is_no_damage(limits: Limits | None) -> None:
    data = video(CLIP, "mjpeg", "avi", options={}, pixel_format="yuvj420p").replace(b"MJPG", b"Zzz9")
    with pytest.raises(MediaError, match="The video codec is unknown") as caught:
        open_frames(io.BytesIO(data), limits)
    assert caught.value.code == "unsupported-codec"


def test_a_file_without_moving_pictures_says_what_it_holds() -> None:
    with pytest.raises(MediaError, match="holds audio and cover pictures") as caught:
        read(audio_only(cover=True))
    assert caught.value.code == "no-video-stream"


def test_titles_in_old_encodings_do_not_matter() -> None:
    data = video(CLIP, "mpeg4", "avi", options={"b": "8M"})
    at = data.index(b"ISFT") + 8
    assert len(read(data[:at] + b"\xe9\xff" + data[at + 2 :])) == 3


@pytest.mark.parametrize("missing", [10, 1000])
def test_an_avi_that_was_cut_off_is_refused(missing: int) -> None:
    data = video(CLIP, "mpeg4", "avi", options={"b": "8M"})
    with pytest.raises(MediaError) as caught:
        read(data[:-missing])
    assert caught.value.code == "corrupt-media"
    assert len(read(data[:4] + bytes(4) + data[8:])) == 3  # as recorders leave it that were switched off


EBML = b"\x1a\x45\xdf\xa3"


@pytest.mark.parametrize("doctype", [b"webm", b"webm\0", b"matroska", b"matroska\0\0"])
@pytest.mark.parametrize("before", [b"", b"\x42\x86\x81\x01\x42\xf7\x81\x01", b"\xec\x40\x50" + bytes(80)])
@pytest.mark.parametrize("wide", [False, True])
def test_the_doctype_stands_anywhere_in_its_header(doctype: bytes, before: bytes, wide: bool) -> None:
    size = b"\x10\0\0" + bytes([len(doctype)]) if wide else bytes([0x80 | len(doctype)])
    body = before + b"\x42\x82" + size + doctype + b"\x42\x87\x81\x04"
    head = EBML + b"\x01" + len(body).to_bytes(7, "big") + body
    assert sniff(head) == ("video/webm" if b"webm" in doctype else "video/x-matroska")


@pytest.mark.parametrize("body", [b"\x42\x82\x84evil", b"\x42\x86\x84webm", b"\x42\x82\xffwebm", b"\0\x42\x82\x84webm"])
def test_other_ebml_headers_are_nothing_to_us(body: bytes) -> None:
    assert sniff(EBML + bytes([0x80 | len(body)]) + body) is None


@pytest.mark.parametrize("size", [100, 7000])
def test_what_is_void_before_the_segment_is_skipped(size: int) -> None:
    data = video(CLIP, container="matroska")
    at = data.index(b"\x18\x53\x80\x67")
    padded = data[:at] + b"\xec\x85" + bytes(5) + b"\xec" + (0x4000 | size).to_bytes(2, "big") + bytes(size) + data[at:]
    assert read(padded).shape == CLIP.shape
    arriving = ClipStream(io.BytesIO(padded).read, "video/x-matroska", MediaOptions(), None)
    assert len(list(arriving)) == len(CLIP)
    with pytest.raises(MediaError, match="cut off"):
        read(padded[:-10])


def test_fonts_of_subtitles_are_no_streams() -> None:
    buffer = io.BytesIO()
    with av.open(io.BytesIO(video(CLIP))) as source, av.open(buffer, "w", format="matroska") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for number in range(Limits().streams):
            target.add_attachment(f"{number}.ttf", "application/x-truetype-font", b"font")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux_one(packet)
    assert read(buffer.getvalue()).shape == CLIP.shape


def test_what_a_phone_measures_is_no_stream() -> None:
    tracks = video(CLIP, tracks=Limits().streams + 2)
    second = tracks.index(b"trak", tracks.index(b"trak") + 4)
    measured = tracks[second:].replace(b"vide", b"meta").replace(b"avc1", b"mebx")
    assert read(tracks[:second] + measured).shape == CLIP.shape
    with pytest.raises(MediaError, match="may hold 8 streams; this one has 10"):
        read(tracks)


@pytest.mark.parametrize(
    ("pixel_format", "tolerance"), [("yuv420p", 2), ("yuvj420p", 3), ("yuv420p10le", 1), ("yuv444p10le", 1)]
)
def test_colours_of_every_depth_and_range_are_right(pixel_format: str, tolerance: int) -> None:
    colour = (27, 140, 194)
    solid = np.full((2, 64, 96, 3), colour, np.uint8)
    made = read(video(solid, options={"qp": "0", "preset": "ultrafast"}, pixel_format=pixel_format))
    assert np.abs(made.astype(int) - colour).max() <= tolerance


def test_a_padded_doctype_is_decoded() -> None:
    data = video(CLIP, container="matroska")
    at = data.index(b"\x42\x82\x88matroska")
    size = data[4:at].index(b"\x42\x86") + 4
    assert int.from_bytes(data[size - 1 : size], "big") & 0x7F  # the last byte of the header's size
    longer = (
        data[: size - 1] + bytes([data[size - 1] + 1]) + data[size:at] + b"\x42\x82\x89matroska\0" + data[at + 11 :]
    )
    assert read(longer).shape == CLIP.shape


@pytest.mark.parametrize("brand", [b"F4V ", b"NDSC", b"XAVC", b"MSNV", b"3gp5", b"caqv", b"dby1"])
def test_any_brand_of_a_clip_is_an_mp4(brand: bytes) -> None:
    data = video(CLIP)
    length = int.from_bytes(data[:4], "big")
    other = data[:8] + brand + data[12:16] + brand * ((length - 16) // 4) + data[length:]
    assert sniff(other) == "video/mp4"
    assert read(other).shape == CLIP.shape
