"""Files that try to break out, to overflow or to mislead: (name, bytes, declared type, slugs that may answer)."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from media_samples import animation, audio_only, pattern, picture, png_bomb, video

CLIP = pattern(9, 32, 48)
MP4 = video(CLIP)
WEBM = video(CLIP, "libvpx-vp9", "webm", options={"deadline": "realtime", "cpu-used": "8"})
WHOLE = {
    "image/png": picture(CLIP[0], "PNG"),
    "image/jpeg": picture(CLIP[0], "JPEG"),
    "image/webp": picture(CLIP[0], "WEBP"),
    "image/gif": picture(CLIP[0], "GIF"),
    "video/mp4": MP4,
    "video/quicktime": video(CLIP, container="mov"),
    "video/webm": WEBM,
    "video/x-matroska": video(CLIP, container="matroska"),
    "video/x-msvideo": video(CLIP, "mpeg4", "avi", options={"qscale": "2"}),
}
ANIMATED = {kind: animation(CLIP, kind) for kind in ("GIF", "PNG", "WEBP")}


class Hostile(NamedTuple):
    """One bad file and how it must be refused."""

    name: str
    data: bytes
    declared: str | None
    slugs: tuple[str, ...]


UNKNOWN = ("unsupported-media-type",)
CORRUPT = ("corrupt-media",)


def scripts(decoy: Path, port: int) -> dict[str, bytes]:
    """Texts that make careless readers open `decoy` (by absolute and by relative name) or connect to `port`."""
    url = f"http://127.0.0.1:{port}/clip.mp4"
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    )
    texts = {
        "ffconcat relative": f"ffconcat version 1.0\nfile {decoy.name}\n",
        "ffconcat absolute": f"ffconcat version 1.0\nfile '{decoy}'\n",
        "ffconcat url": f"ffconcat version 1.0\nfile {url}\n",
        "hls file": hls.format(decoy.as_uri()),
        "hls relative": hls.format(decoy.name),
        "hls url": hls.format(url),
        "hls key": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:9,\n{decoy}\n',
        "dash file": dash.format(decoy.as_uri()),
        "dash url": dash.format(url),
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{decoy.as_uri()}"/><image href="{url}"/></svg>',
        "eps": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({decoy}) (r) file\n%%EOF",
        "imagemagick": f"push graphic-context\nimage over 0,0 0,0 '{url}'\npop graphic-context",
        "asx": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
        "path": str(decoy),
        "url": url,
    }
    return {name: text.encode() for name, text in texts.items()}


def corpus(decoy: Path, port: int) -> list[Hostile]:
    """Every kind of bad file, each with the answers that are right for it."""
    texts = scripts(decoy, port)
    files = [Hostile(name, text, None, UNKNOWN) for name, text in texts.items()]
    files += [Hostile(f"{name} as mp4", texts[name], "video/mp4", UNKNOWN) for name in texts]
    for head_type, head in (
        ("video/mp4", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2"),
        ("video/quicktime", b"\0\0\0\x08wide"),
        ("video/webm", b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm"),
        ("video/x-msvideo", b"RIFF\0\0\0\0AVI LIST"),
        ("image/gif", b"GIF89a"),
        ("image/jpeg", b"\xff\xd8\xff"),
    ):
        # A magic number in front passes the sniffer; the pinned reader must not follow the script behind it.
        files += [
            Hostile(
                f"{head_type} head, {name}",
                head + b"\n" + texts[name],
                head_type,
                (*CORRUPT, "no-video-stream", "too-many-pixels"),
            )
            for name in ("hls url", "ffconcat relative", "dash url")
        ]
    for kind, data in WHOLE.items():
        cuts = (len(data) // 10, len(data) // 2, len(data) * 9 // 10, len(data) - 40)
        files += [Hostile(f"{kind} cut at {cut}", data[:cut], kind, CORRUPT) for cut in cuts]
    files += [
        Hostile("empty", b"", "image/png", ("malformed-body",)),
        Hostile("one byte", b"\x89", "image/png", UNKNOWN),
        Hostile("magic only png", b"\x89PNG\r\n\x1a\n", None, CORRUPT),
        Hostile("magic only webm", b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", None, CORRUPT),
        Hostile("zeros", bytes(5000), "video/mp4", UNKNOWN),
        Hostile("zip", _zip(WHOLE["image/png"]), "image/png", UNKNOWN),
        Hostile("png as jpeg", WHOLE["image/png"], "image/jpeg", UNKNOWN),
        Hostile("mp4 as webm", MP4, "video/webm", UNKNOWN),
        Hostile("jpeg as mp4", WHOLE["image/jpeg"], "video/mp4", UNKNOWN),
        Hostile("webm as gif", WEBM, "image/gif", UNKNOWN),
        Hostile("audio only", audio_only(), "video/mp4", ("no-video-stream",)),
        Hostile("prores codec", _prores(), "video/quicktime", ("unsupported-codec",)),
        Hostile("no frames", _without_frames(MP4), "video/mp4", (*CORRUPT, "no-video-stream")),
        Hostile("nine streams", video(CLIP[:1], tracks=9), "video/mp4", ("decode-budget",)),
        Hostile("png bomb", png_bomb(12_000), "image/png", ("too-many-pixels",)),
        Hostile("png of 4 billion pixels", _png_header(65_535, 65_535), "image/png", ("too-many-pixels",)),
        Hostile("png without pixels", _png_header(0, 5), "image/png", CORRUPT),
        Hostile("webp of 268 million pixels", _webp_header(16_383), "image/webp", ("too-many-pixels", *CORRUPT)),
        Hostile("gif of 4 billion pixels", _gif_header(65_535), "image/gif", ("too-many-pixels",)),
        Hostile("large mp4", video(np.zeros((3, 4096, 4096, 3), np.uint8)), "video/mp4", ("too-many-pixels",)),
        Hostile("many small frames", video(pattern(1300, 16, 16)), "video/mp4", ("too-many-frames",)),
        Hostile("long clip", video(CLIP, pts=[600 * i for i in range(9)]), "video/mp4", ("too-long",)),
        # Its text is dropped, and its pixels are sound.
        Hostile("compressed text bomb", _png_text_bomb(), "image/png", ("accepted",)),
    ]
    return files


def flipped(seed: int, data: bytes) -> bytes:
    """The file with four random bits turned."""
    noisy = bytearray(data)
    rng = np.random.default_rng(seed)
    for position in rng.integers(0, len(noisy), 4):
        noisy[position] ^= 1 << int(rng.integers(0, 8))
    return bytes(noisy)


def _prores() -> bytes:
    return video(CLIP, "prores", "mov", options={}, pixel_format="yuv422p10le")


def _zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("picture.png", content)
    return buffer.getvalue()


def _without_frames(mp4: bytes) -> bytes:
    """Return the file with a sample count of zero in every table of its track."""
    table = mp4.index(b"stsz") + 12
    return mp4[:table] + b"\0\0\0\0" + mp4[table + 4 :]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_header(width: int, height: int) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


def _png_text_bomb() -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    text = _chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    return b"\x89PNG\r\n\x1a\n" + header + text + _chunk(b"IDAT", zlib.compress(bytes(4))) + _chunk(b"IEND", b"")


def _webp_header(side: int) -> bytes:
    size = (side - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size
    frame = b"ANMF" + struct.pack("<I", 24) + bytes(24)
    body = b"WEBP" + extended + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif_header(side: int) -> bytes:
    pixel = b"\x2c\0\0\0\0" + struct.pack("<HH", side, side) + b"\0\x02\x02\x44\x01\0\x3b"
    return b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0\0\0\0\xff\xff\xff" + pixel
