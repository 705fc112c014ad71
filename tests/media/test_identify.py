"""Media types follow from the bytes, not from the declared type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_samples import animation, pattern, picture, video

from media.errors import MediaError
from media.identify import MEDIA_TYPES, identify, sniff

CLIP = pattern(2, 16, 16)
FILES = {
    "image/png": picture(CLIP[0], "PNG"),
    "image/jpeg": picture(CLIP[0], "JPEG"),
    "image/webp": picture(CLIP[0], "WEBP"),
    "image/gif": animation(CLIP, "GIF"),
    "image/bmp": picture(CLIP[0], "BMP"),
    "image/tiff": picture(CLIP[0], "TIFF"),
    "image/avif": picture(CLIP[0], "AVIF"),
    "video/mp4": video(CLIP),
    "video/quicktime": video(CLIP, container="mov"),
    "video/x-matroska": video(CLIP, container="matroska"),
    "video/webm": video(CLIP, "libvpx-vp9", "webm", options={"deadline": "realtime"}),
    "video/x-msvideo": video(CLIP, "mpeg4", "avi", options={}),
}


def test_every_type_has_a_sample() -> None:
    assert set(FILES) == set(MEDIA_TYPES)


@pytest.mark.parametrize("media_type", FILES)
def test_content_tells_the_type(media_type: str) -> None:
    assert sniff(FILES[media_type]) == media_type
    assert identify(FILES[media_type], media_type) == media_type
    assert identify(FILES[media_type], None) == media_type


@pytest.mark.parametrize("media_type", FILES)
@pytest.mark.parametrize("declared", [*MEDIA_TYPES, "text/plain", ""])
def test_a_label_must_be_of_the_family(media_type: str, declared: str) -> None:
    families = [{"video/mp4", "video/quicktime"}, {"video/webm", "video/x-matroska"}]
    same = media_type == declared or any({media_type, declared} <= family for family in families)
    if same:
        assert identify(FILES[media_type], declared) == media_type
    else:
        with pytest.raises(MediaError) as caught:
            identify(FILES[media_type], declared)
        assert caught.value.code == "unsupported-media-type"


def test_parameters_and_case_of_a_label_do_not_matter() -> None:
    assert identify(FILES["video/mp4"], 'Video/MP4; codecs="avc1.42E01E"') == "video/mp4"


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x18ftypM4A \0\0\0\0isommp42",
        b"\0\0\0\x14ftypheim\0\0\0\0heim",
        b"\0\0\0\x18ftypABCD\0\0\0\0ABCDmif1",
        b"\0\0\0\x14ftypcrx \0\0\0\x01crx ",
        b"\0\0\0\x08ftypabcd",
        b"\0\0\0\x14ftyp\x01\x02\x03\x04\0\0\0\0isom",
        b"\0\0\0\x14ftyp\0\0\0\0\0\0\0\0",
        b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84evil",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"BM",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"#EXTM3U",
        b"PK\x03\x04",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_other_formats_are_nothing_to_us(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"%PDF-1.7", "a PDF document"),
        (b"FLV\x01\x05", "a Flash video"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIF picture"),
        (b"\0\0\0\x18ftypM4A \0\0\0\0isommp42", "sound"),
        (b"G" + bytes(187) + b"G" + bytes(187), "an MPEG transport stream"),
        (b"<!DOCTYPE html>", "a text in HTML"),
        (b"\xef\xbb\xbf\n <svg/>", "a text in HTML, SVG"),
        (b"\0\0\1\0\1\0", "an icon"),
        (b"qoif\0\0\0\1", "a QOI picture"),
        (b"YUV4MPEG2 W8 H8", "a raw video stream"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"P6\n8 8\n255\n", "a Netpbm picture"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
        (b"\x1f\x07\0\xbf", "a raw DV stream"),
        (b"\0\0\1\x67\x42", "a raw video stream without a container"),
        (b"\x12\0\x0a\x0b", "a raw video stream without a container"),
        (b"\0\0\1\xba\x44", "an MPEG program stream"),
        (b"\xff\xfb\x90", "sound"),
        (b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix", "a fragment of an MP4"),
        (b"\x1f\x43\xb6\x75\x01\xff", "a part of a WebM or Matroska file"),
        (bytes(range(64)), "not known here"),
    ],
)
def test_a_refusal_names_what_was_found_and_what_is_accepted(head: bytes, found: str) -> None:
    with pytest.raises(MediaError) as caught:
        identify(head, None)
    assert caught.value.code == "unsupported-media-type"
    assert found in caught.value.detail
    assert all(media_type in caught.value.detail for media_type in MEDIA_TYPES)


@pytest.mark.parametrize("filler", [b"free", b"skip", b"wide", b"uuid"])
def test_filler_before_the_brand_is_skipped(filler: bytes) -> None:
    gap = (16).to_bytes(4, "big") + filler + bytes(8)
    assert sniff(gap + gap + FILES["video/mp4"]) == "video/mp4"
    assert sniff(gap + (99).to_bytes(4, "big") + b"moov") == "video/quicktime"


@pytest.mark.parametrize("label", ["video/avi", "video/vnd.avi", "video/msvideo"])
def test_every_label_of_an_avi_fits(label: str) -> None:
    assert identify(FILES["video/x-msvideo"], label) == "video/x-msvideo"


@pytest.mark.parametrize("label", ["video/3gpp", "video/3gpp2", "video/x-m4v"])
def test_relatives_of_mp4_fit(label: str) -> None:
    data = FILES["video/mp4"]
    assert identify(data[:8] + b"3gp5" + data[12:], label) == "video/mp4"


def test_an_empty_body_says_so() -> None:
    with pytest.raises(MediaError, match="empty") as caught:
        identify(b"", "image/png")
    assert caught.value.code == "malformed-body"


@given(st.binary(max_size=64))
def test_any_bytes_have_at_most_one_known_type(head: bytes) -> None:
    assert sniff(head) in (None, *MEDIA_TYPES)
