"""Media types by magic bytes: the content decides, never a name or a label."""

from __future__ import annotations

import re

from media.ebml import ebml_size
from media.errors import MediaError

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff", "image/avif")
VIDEO_TYPES = ("video/mp4", "video/quicktime", "video/webm", "video/x-matroska", "video/x-msvideo")
MEDIA_TYPES = IMAGE_TYPES + VIDEO_TYPES
IMAGE_OUTPUTS = ("image/png", "image/jpeg", "image/webp")
VIDEO_OUTPUTS = ("video/mp4", "video/webm", "image/gif")

# Types whose files the same demuxer reads and that writers label either way.
FAMILIES = {
    "video/quicktime": "video/mp4",
    "video/x-m4v": "video/mp4",
    "video/x-mp4": "video/mp4",
    "application/mp4": "video/mp4",
    "video/3gpp": "video/mp4",
    "video/3gpp2": "video/mp4",
    "video/x-matroska": "video/webm",
    "video/matroska": "video/webm",
    "video/avi": "video/x-msvideo",
    "video/msvideo": "video/x-msvideo",
    "video/vnd.avi": "video/x-msvideo",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/jfif": "image/jpeg",
    "image/apng": "image/png",
    "image/vnd.mozilla.apng": "image/png",
    "image/x-png": "image/png",
    "image/x-bmp": "image/bmp",
    "image/tif": "image/tiff",
    "image/x-tif": "image/tiff",
    "image/x-tiff": "image/tiff",
    "image/x-ms-bmp": "image/bmp",
    "image/avif-sequence": "image/avif",
}

HEAD_BYTES = 4096

# Sizes of the second header of a BMP, whose first two bytes alone say little.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)

# Brands of the same box structure whose files hold pictures or sound only; the general ones say nothing of the codec.
_AVIF_BRANDS = (b"avif", b"avis")
_GENERAL_STILL_BRANDS = (b"mif1", b"msf1")
_STILL_BRANDS = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf MiHE MiHB jpeg jpgs avci avcs".split()
) | {b"crx ", b"jp2 ", b"jpx ", b"jpm ", b"jxl "}
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ")
_MP4_BRAND = re.compile(rb"iso[m2-9]|mp4[12]|avc1|hvc1|hev1|av01|M4V[ HP]|dash|cmf[2cf]")
_FRAGMENTS = (b"styp", b"sidx", b"moof")  # boxes that begin them
_BRAND = re.compile(rb"[\x20-\x7e]{4}")
# QuickTime files older than brands start with one of these boxes; the second kind may come before brands too.
_QUICKTIME_BOXES = (b"moov", b"mdat", b"wide")
_FILLER_BOXES = (b"free", b"skip", b"pnot", b"PICT", b"uuid", b"wide")

# Clips that only trusted files may be, by their names below: a service need not show their demuxers to strangers.
_TRUSTED_TYPES = {
    "a Flash video": "video/x-flv",
    "an Ogg file": "video/ogg",
    "a Windows Media file": "video/x-ms-wmv",
    "an MPEG program stream": "video/mpeg",
    "an MPEG transport stream": "video/mp2t",
}

_TIFF = (b"II*\0", b"MM\0*", b"II+\0")  # of either byte order; with + offsets take 8 bytes
_CANON_RAW = b"II*\0\x10\0\0\0CR"

# Names of formats that are not read, or not from strangers: (position, bytes there, name).
_OTHERS = (
    (0, b"RIFF", "another RIFF file than WebP or AVI"),
    (0, b"\x1a\x45\xdf\xa3", "another EBML file than WebM or Matroska"),
    (0, b"\x1f\x43\xb6\x75", "a part of a WebM or Matroska file without its beginning"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    *((0, b"P%c\n" % kind, "a Netpbm picture") for kind in b"1234567Ff"),
    (0, _CANON_RAW, "a camera's raw picture"),
    (0, b"MM\0+", "a BigTIFF whose first bytes are the high ones"),
    (0, b"IIU\0", "a camera's raw picture"),
    (0, b"IIRO", "a camera's raw picture"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw picture"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"\0\0\2\0", "a cursor or a Targa picture"),
    (0, b"qoif", "a QOI picture"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance picture"),
    (0, b"DDS ", "a texture"),
    (128, b"DICM", "a DICOM file"),
    (0, b"YUV4MPEG2", "a raw video stream"),
    (0, b"DKIF", "a raw video stream"),
    (0, b"\x1f\x07\0", "a raw DV stream; put it into an AVI or QuickTime file"),
    (0, b".RMF", "a RealMedia file"),
    (0, b"\6\x0e\x2b\x34", "an MXF file"),
    (0, b"FLV", "a Flash video"),
    (0, b"OggS", "an Ogg file"),
    (0, b"\x30\x26\xb2\x75", "a Windows Media file"),
    (0, b"\0\0\x01\xba", "an MPEG program stream"),
    (0, b"\0\0\0\x01", "a raw video stream without a container"),
    (0, b"\0\0\x01", "a raw video stream without a container"),
    (0, b"\x12\0\x0a", "a raw video stream without a container"),
    (188, b"G", "an MPEG transport stream"),
    (196, b"G", "an MPEG transport stream"),
    (0, b"ID3", "sound"),
    (0, b"fLaC", "sound"),
    (0, b"\xff\xfb", "sound"),
    (0, b"\xff\xf1", "sound"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file"),
    (0, b"#EXTM3U", "a playlist"),
)
_TEXT, _BYTE_ORDER_MARK = "a text in HTML, SVG or XML", b"\xef\xbb\xbf"


def sniff(head: bytes) -> str | None:
    """Find the media type of a file.

    Args:
        head: the first bytes of the file; `HEAD_BYTES` are enough.

    Returns:
        One of `MEDIA_TYPES`, or None for any other bytes.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith(_TIFF) and not head.startswith(_CANON_RAW):
        return "image/tiff"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _ebml_doctype(head)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video/x-msvideo"
    return _iso_boxes(head)


def identify(data: bytes | memoryview, declared: str | None, trusted: bool = False) -> str:
    """Find the media type of a body, and compare it with the one that its sender declared.

    Args:
        data: the whole file.
        declared: the sender's media type, parameters such as `; codecs=` allowed; None if it gave none.
        trusted: the file is the user's own, so that rare containers of clips are read too.

    Returns:
        One of `MEDIA_TYPES`, or of the further types of trusted files.

    Raises:
        MediaError: "malformed-body" for an empty file, "unsupported-media-type" for an unknown format or a label
            that disagrees with the content.
    """
    if not len(data):
        raise MediaError("malformed-body", "The media is empty: 0 bytes arrived.")
    head = bytes(data[:HEAD_BYTES])
    found = sniff(head)
    if found is None and trusted:
        found = _TRUSTED_TYPES.get(describe(head))
    if found is None:
        raise MediaError(
            "unsupported-media-type",
            f"The media is {describe(head)}; accepted are {', '.join(MEDIA_TYPES)}.",
        )
    if declared is not None:
        label = declared.split(";")[0].strip().lower()
        if FAMILIES.get(label, label) != FAMILIES.get(found, found):
            raise MediaError(
                "unsupported-media-type", f"The media was declared as another type than its content, which is {found}."
            )
    return found


def describe(head: bytes) -> str:
    """Name a format that is not read, by the first bytes of a file."""
    if head[4:8] == b"ftyp":
        major = head[8:12]
        if major in _SOUND_BRANDS:
            return "sound"
        return "a HEIF picture or another file of its family"
    if head[4:8] in _FRAGMENTS:
        return "a fragment of an MP4; put the part that begins it, the initialization segment, in front"
    names = (name for position, magic, name in _OTHERS if head.startswith(magic, position))
    unnamed = "of a format that is not known here"
    return next(names, _TEXT if head.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] == b"<" else unnamed)


def _ebml_doctype(head: bytes) -> str | None:
    """Walk the elements of the EBML header, which come in any order, up to the one that names the format."""
    size, start = ebml_size(head, 4)
    end = len(head) if size is None else min(start + size, len(head))
    while start < end and head[start]:
        content = start + 9 - head[start].bit_length()
        name = head[start:content]
        size, content = ebml_size(head, content)
        if size is None:
            return None
        if name == b"\x42\x82":  # may be padded with zeros
            doctype = head[content : min(content + size, end)].rstrip(b"\0")
            return {b"webm": "video/webm", b"matroska": "video/x-matroska"}.get(doctype)
        start = content + size
    return None


def _iso_boxes(head: bytes) -> str | None:
    """Skip what fills the space before the first box that names the format."""
    start = 0
    while head[start + 4 : start + 8] in _FILLER_BOXES:
        size = int.from_bytes(head[start : start + 4], "big")
        following = head[start + size + 4 : start + size + 8]
        if size < 8 or following not in (*_FILLER_BOXES, *_QUICKTIME_BOXES, b"ftyp"):
            break
        start += size
    kind = head[start + 4 : start + 8]
    if kind == b"ftyp":
        return _iso_brand(head[start:])
    return "video/quicktime" if kind in _QUICKTIME_BOXES else None


def _iso_brand(head: bytes) -> str | None:
    """Name the media type of a box of brands, by the major one first.

    Cameras and tools make up their own, so that any that is not known as something else is an mp4.
    """
    length = int.from_bytes(head[:4], "big")
    major, others = head[8:12], [head[i : i + 4] for i in range(16, min(length, len(head), 128), 4)]
    if major == b"qt  ":
        return "video/quicktime"
    if major in _AVIF_BRANDS or (major in _GENERAL_STILL_BRANDS and any(brand in _AVIF_BRANDS for brand in others)):
        return "image/avif"
    if length < 16 or major in _STILL_BRANDS or major in _SOUND_BRANDS or not _BRAND.fullmatch(major):
        return None
    if any(_MP4_BRAND.fullmatch(brand) for brand in (major, *others)):
        return "video/mp4"
    if b"qt  " in others:
        return "video/quicktime"
    return None if _STILL_BRANDS.intersection(others) else "video/mp4"
