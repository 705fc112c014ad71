"""Ways to damage a file: each takes a random generator and files, and returns bytes that a reader may stumble over."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

MAX_BYTES = 2**20  # of a mutated file, so that a whole run stays short
HEADER_BYTES = 512
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FORMATS = (">B", ">H", "<H", ">I", "<I", ">Q", "<Q")
MAGICS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\xff\xff\xff\x7fWEBPVP8X", b"RIFF\0\0\0\0AVI LIST"),
    *(
        b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
        b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm",
        b"II*\0\x08\0\0\0",
        b"MM\0*",
        b"BM",
    ),
)
TAILS = (
    b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x"/></svg>',
    b"PK\x05\x06" + bytes(18),
    b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n%%EOF",
)

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def truncate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the beginning or the end of the file."""
    cut = rng.randrange(len(data) + 1)
    return data[cut:] if rng.random() < 0.2 else data[:cut]


def flip_bits(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the file with 1 to 64 bits turned."""
    noisy = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16, 64))):
        noisy[rng.randrange(len(noisy))] ^= 1 << rng.randrange(8)
    return bytes(noisy)


def lie_in_header(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the file with extreme numbers in place of one to four fields near its beginning."""
    noisy = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        _overwrite(rng, noisy, min(HEADER_BYTES, len(noisy)))
    return bytes(noisy)


def lie_anywhere(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the file with extreme numbers anywhere: sizes of boxes, counts of tables, offsets."""
    noisy = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        _overwrite(rng, noisy, len(noisy))
    return bytes(noisy)


def move_blocks(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the file with a piece removed, repeated, zeroed or put elsewhere."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 4, 16, 256, 4096)))
    piece, rest = data[start:end], data[:start] + data[end:]
    kind = rng.choice(("remove", "repeat", "zero", "move"))
    if kind == "remove":
        return rest
    if kind == "repeat":
        return data[:end] + piece * rng.choice((1, 2, 100)) + data[end:]
    if kind == "zero":
        return data[:start] + bytes(end - start) + data[end:]
    to = rng.randrange(len(rest) + 1)
    return rest[:to] + piece + rest[to:]


def splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the beginning of the file and the end of another one."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def change_magic(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the file behind the first bytes of another format."""
    magic = rng.choice(MAGICS)
    return magic + data[rng.choice((0, len(magic))) :]


def append(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a polyglot: the file, and behind it another one or a script that names files and addresses."""
    return data + rng.choice((rng.choice(TAILS), rng.choice(others)))


def noise(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return random bytes behind the beginning of the file."""
    return data[: rng.choice((0, 4, 16, 64, 256))] + rng.randbytes(rng.choice((1, 100, 5000)))


def combine(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the file after two or three other mutations."""
    for _ in range(rng.randint(2, 3)):
        data = rng.choice(SINGLE)(rng, data or b"\0", others)
    return data


SINGLE: tuple[Mutation, ...] = (
    *(truncate, flip_bits, lie_in_header, lie_anywhere, move_blocks),
    *(splice, change_magic, append, noise),
)
MUTATIONS: dict[str, Mutation] = {mutation.__name__: mutation for mutation in (*SINGLE, combine)}


def mutate(rng: random.Random, name: str, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the file after a mutation.

    Args:
        rng: decides the details.
        name: of `MUTATIONS`.
        data: the file, not empty.
        others: files to splice with, none of them empty.
    """
    return MUTATIONS[name](rng, data, others)[:MAX_BYTES]


def _overwrite(rng: random.Random, data: bytearray, within: int) -> None:
    form = rng.choice(FORMATS)
    size = struct.calcsize(form)
    value = rng.choice(EXTREMES) if rng.random() < 0.8 else rng.getrandbits(32)
    start = rng.randrange(max(1, within - size))
    data[start : start + size] = struct.pack(form, value % 256**size)
