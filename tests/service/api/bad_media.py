"""Media that is broken, mislabelled, too much, or a script that points elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from api_media import animation, clip, fragmented, frameless, picture, png_boast, png_bomb, sound_only
from bad_case import (
    GIF,
    JPEG,
    MP4,
    OCTETS,
    PNG,
    WEBM,
    WEBP,
    Case,
    Target,
    cut,
    in_last_box,
    npz,
    raw,
)

HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile {url}\n"
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
DASH = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{url}</BaseURL></MPD>'
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}" width="9" height="9"/></svg>'


def _script(text: str, local: bool, disguise: bytes = b"") -> Callable[[Target], bytes]:
    def make(target: Target) -> bytes:
        url = str(target.decoy) if local else f"http://127.0.0.1:{target.port}/x.mp4"
        return disguise + text.format(url=url, port=target.port).encode()

    return make


def _relative(target: Target) -> bytes:
    return CONCAT.format(url=target.decoy.name).encode()


FTYP = b"\0\0\0\x18ftypisom\0\0\0\0isommp41"


def _webm() -> bytes:
    return clip(5, container="webm", codec="libvpx-vp9")


MEDIA = [
    Case("truncated png", 422, "corrupt-media", "/encode", raw(cut(picture("PNG"), 0.6)), PNG),
    Case("truncated jpeg", 422, "corrupt-media", "/encode", raw(cut(picture("JPEG"), 0.6)), JPEG),
    Case("truncated webp", 422, "corrupt-media", "/encode", raw(cut(picture("WEBP"), 0.6)), WEBP),
    Case("truncated gif", 422, "corrupt-media", "/encode", raw(cut(animation(1), 0.6)), GIF),
    Case("truncated mp4", 422, "corrupt-media", "/encode", lambda target: cut(clip(), 0.6), MP4),
    Case("truncated fragmented mp4", 422, "corrupt-media", "/encode", lambda target: in_last_box(fragmented()), MP4),
    Case("mp4 of which the header is left", 422, "corrupt-media", "/encode", raw(FTYP), MP4),
    Case("webm of which the header is left", 422, "corrupt-media", "/encode", raw(lambda: _webm()[:96]), WEBM),
    Case("noise after a png's magic", 422, "corrupt-media", "/encode", raw(picture()[:8] + bytes(range(256))), PNG),
    Case("noise after a jpeg's magic", 422, "corrupt-media", "/encode", raw(b"\xff\xd8\xff" + bytes(999)), JPEG),
    Case("png called jpeg", 415, "unsupported-media-type", "/encode", raw(picture), JPEG),
    Case("mp4 called png", 415, "unsupported-media-type", "/encode", lambda target: clip(), PNG),
    Case("png called mp4", 415, "unsupported-media-type", "/encode", raw(picture), MP4),
    Case("zip archive", 415, "unsupported-media-type", "/encode", raw(npz(x=b"x")), OCTETS),
    Case("program", 415, "unsupported-media-type", "/encode", raw(b"\x7fELF" + bytes(99)), OCTETS),
    Case("PostScript", 415, "unsupported-media-type", "/encode", raw(b"%!PS-Adobe-3.0 EPSF-3.0\n"), OCTETS),
    Case("PPM", 415, "unsupported-media-type", "/encode", raw(lambda: picture("PPM")), OCTETS),
    Case("HLS with a file", 415, "unsupported-media-type", "/encode", _script(HLS, True), OCTETS),
    Case("HLS with a URL", 415, "unsupported-media-type", "/encode", _script(HLS, False), OCTETS),
    Case("HLS called mp4", 415, "unsupported-media-type", "/encode", _script(HLS, True), MP4),
    Case("HLS behind an mp4 header", 422, "corrupt-media", "/encode", _script(HLS, True, FTYP), MP4),
    Case("concat script with a file", 415, "unsupported-media-type", "/encode", _script(CONCAT, True), OCTETS),
    Case("concat script with a relative file", 415, "unsupported-media-type", "/encode", _relative, OCTETS),
    Case("concat script with a URL", 415, "unsupported-media-type", "/encode", _script(CONCAT, False), MP4),
    Case("concat script behind an mp4 header", 422, "corrupt-media", "/encode", _script(CONCAT, True, FTYP), OCTETS),
    Case("SDP", 415, "unsupported-media-type", "/encode", _script(SDP, False), OCTETS),
    Case("DASH", 415, "unsupported-media-type", "/encode", _script(DASH, False), OCTETS),
    Case("svg", 415, "unsupported-media-type", "/encode", _script(SVG, True), {"Content-Type": "image/svg+xml"}),
    Case("svg as bytes", 415, "unsupported-media-type", "/encode", _script(SVG, False), OCTETS),
    Case("a path instead of media", 415, "unsupported-media-type", "/encode", lambda t: bytes(t.decoy), OCTETS),
    Case("png bomb", 422, "too-many-pixels", "/encode", lambda target: png_bomb(), PNG),
    Case("png that boasts", 422, "too-many-pixels", "/encode", raw(png_boast(2**31 - 1)), PNG),
    Case("picture with a long side", 422, "too-many-pixels", "/encode", raw(lambda: picture("PNG", 8, 4096)), PNG),
    Case("video of large frames", 422, "too-many-pixels", "/encode", lambda t: clip(2, 1088, 1920), MP4),
    Case("picture over the model's pixels", 422, "too-many-pixels", "/encode", lambda t: picture("PNG", 264, 264), PNG),
    Case("video of many frames", 422, "too-many-frames", "/encode", lambda target: clip(60), MP4),
    Case("video of more frames than a request", 422, "too-many-frames", "/encode", lambda target: clip(20), MP4),
    Case("long animation", 422, "too-many-frames", "/encode?animated=1", lambda target: animation(14), GIF),
    Case("long video", 422, "too-long", "/encode?frames=2", lambda target: clip(8, fps=0.5), MP4),
    Case("too many tokens", 422, "too-many-tokens", "/encode?size=256", lambda target: clip(17), MP4),
    Case("sound only", 422, "no-video-stream", "/encode", lambda target: sound_only(), MP4),
    Case("video of no frames", 422, "no-video-stream", "/encode", lambda target: frameless(), MP4),
    Case("unknown codec", 415, "unsupported-codec", "/encode", lambda t: clip(codec="ffv1"), MP4),
    Case("window after the end", 422, "invalid-options", "/encode?start_s=5", lambda target: clip(), MP4),
]
