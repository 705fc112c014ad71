"""A user's own files: folders of images or videos, or tar shards of them, each item one file."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from media.kinds import IMAGE_SUFFIXES, KINDS, VIDEO_SUFFIXES, Kind, kind_of
from media.labels import LabelError, Labels, classify, find_label_file
from media.reader import open_frames
from media.tar_index import COMPRESSED_TARS, Member, index_tar
from media.types import Frames, MediaOptions, SampleWindow
from media.walk import walk_files
from training.errors import TrainingError

READ_BYTES = 1 << 16  # headers are read in many small steps
BUILT = frozenset(Path("data", name) for name in ("demo", "play", "debug"))  # by `omnitok data build`; recipes' data


class PackedNames:
    """Millions of names in one block of bytes: quick to send to another process.

    Args:
        names: file names, of any encoding that the system has.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._text[start : int(self._ends[index])])


@dataclass(frozen=True, eq=False)
class Source:
    """The files of one kind, in the order of their names, whether they are in folders or in shards.

    Args:
        kind: images or clips.
        root: folder that names start from.
        names: of the items, relative to `root`, or inside a shard.
        shards: paths of the tar files.
        shard: int64 (N), index in `shards`, -1 for a file of its own.
        offset, size: int64 (N), where the bytes of an item are in its shard; 0 for a file of its own.
        classes: names that the labels count from 0, or empty where items have no class.
        labels: int64 (N), class of every item, or (0) where there are none.
        damaged: shards that end early or are none, with the reason.
    """

    kind: Kind
    root: Path
    names: PackedNames
    shards: tuple[Path, ...]
    shard: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    damaged: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> str:
        """Return the path of an item, for people."""
        shard = int(self.shard[index])
        return str((self.root if shard < 0 else self.shards[shard]) / self.names[index])

    def open(self, index: int) -> FileSection:
        """Open the bytes of an item as a file.

        Raises:
            OSError: the file is gone or cannot be read.
            TrainingError: it is empty.
        """
        if (shard := int(self.shard[index])) < 0:
            file = FileSection(self.root / self.names[index])
        else:
            file = FileSection(self.shards[shard], int(self.offset[index]), int(self.size[index]))
        if not len(file):
            file.close()
            raise TrainingError("The file is empty.")
        return file

    def read(self, index: int, side: int, frames: int, window: SampleWindow | None = None) -> Frames:
        """Decode an item to squares that span the shorter side of the picture.

        Args:
            index: number of the item.
            side: pixels of the squares.
            frames: of a clip; the last one is held where there are fewer. An image has one.
            window: position of the squares and of the kept frames, and their rate; by default the
                middle and the first frames.

        Raises:
            OSError: the file is gone or cannot be read.
            MediaError: it is damaged, or not of a type that is read.
            TrainingError: it is empty, or not of the kind that its name says.
        """
        is_clip = self.kind == "clips"
        count = frames if is_clip else 1
        with io.BufferedReader(self.open(index), READ_BYTES) as file:
            options = MediaOptions(size=(side, side), frames=count, animated=is_clip)
            reader = open_frames(file, None, options, window=window)
            if reader.is_video != is_clip:
                raise TrainingError(
                    f"The file is {'a clip' if reader.is_video else 'one picture'}, and its name says otherwise."
                )
            shown = np.stack(list(reader))
        held = shown[np.minimum(np.arange(count), len(shown) - 1)]
        return Frames(held, reader.info(), reader.preprocess, is_clip)


class FileSection(io.RawIOBase):
    """Part of a file, read as a file. It has no name, as a decoder could take a name for an address.

    Args:
        path: of the file.
        offset, size: of the part in bytes; the whole file if there is no size.
    """

    def __init__(self, path: Path, offset: int = 0, size: int | None = None) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset, self._at = offset, 0
        self._size = os.fstat(self._file.fileno()).st_size if size is None else size

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        free = memoryview(buffer)[: max(0, self._size - self._at)]
        count = os.preadv(self._file.fileno(), [free], self._offset + self._at) if len(free) else 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True, eq=False)
class FoundFiles:
    """The contents of a folder.

    Args:
        images, clips: the files of each kind, or none.
    """

    images: Source | None
    clips: Source | None


def find_sources(data: Path) -> tuple[Source | None, Source | None]:
    """Return the images and the clips of a folder of files.

    Args:
        data: holds `images/` and `clips/` or `videos/`; or, without these, files of either kind or tar shards of them.

    Raises:
        TrainingError: the folder does not exist or holds neither, or has labels that are wrong.
    """
    images, clips = data / "images", [data / name for name in ("clips", "videos") if (data / name).is_dir()]
    if len(clips) > 1:
        raise TrainingError(f"{data} has both clips/ and videos/: keep one.")
    if not images.is_dir() and not clips:
        found = find_files(data)
        sources = found.images, found.clips
    else:
        sources = (
            find_files(images).images if images.is_dir() else None,
            find_files(clips[0]).clips if clips else None,
        )
    if sources == (None, None):
        raise TrainingError(
            f"{data} holds no data: no sets of pixels below train/, no images ({', '.join(sorted(IMAGE_SUFFIXES))}), "
            f"no videos ({', '.join(VIDEO_SUFFIXES)}) and no tar shards of them."
        )
    return sources


def check_exists(data: Path) -> None:
    """Refuse data that is not there.

    Raises:
        TrainingError: it is not, and what makes it.
    """
    if not data.exists():
        remedy = f": `omnitok data build {data.name}` makes it" if data in BUILT else ""
        raise TrainingError(f"{data} does not exist{remedy}.")


def find_files(root: Path) -> FoundFiles:
    """List the files below a folder, or in a tar file. Hidden files are left out, links are followed.

    A class is named by the first folder of a name, by `labels.csv` or `labels.tsv` in `root`, or by WebDataset's
    `.cls` members of the same name.

    Args:
        root: a folder, or one tar file.

    Raises:
        TrainingError: no such folder, a compressed shard, or labels that are wrong.
    """
    check_exists(root)
    paths = [root] if root.is_file() else [root / name for name in walk_files(root)]
    base = root.parent if root.is_file() else root
    tars = tuple(path for path in paths if path.name.lower().endswith(".tar"))
    if compressed := next((path for path in paths if path.name.lower().endswith(COMPRESSED_TARS)), None):
        raise TrainingError(f"{compressed} is compressed, so its items cannot be read in any order: unpack it to .tar.")
    members = [Member(str(path.relative_to(base)), -1, 0, 0, None) for path in paths]
    damaged = []
    for number, path in enumerate(tars):
        inside, problem = index_tar(path, number)
        members += inside
        if problem:
            damaged.append((str(path), problem))
    # by name: shards of a folder count its files as the folder does, however they are cut
    members.sort(key=lambda member: (os.fsencode(member.name), member.shard))
    known = [member for member in members if kind_of(member.name)]
    try:
        labels = classify(known, find_label_file(base))
    except LabelError as error:
        raise TrainingError(str(error)) from error
    images, clips = (_source(kind, base, known, tars, labels, tuple(damaged)) for kind in KINDS)
    return FoundFiles(images, clips)


def _source(
    kind: Kind,
    root: Path,
    members: list[Member],
    shards: tuple[Path, ...],
    labels: Labels,
    damaged: tuple[tuple[str, str], ...],
) -> Source | None:
    chosen = [index for index, member in enumerate(members) if kind_of(member.name) == kind]
    if not chosen:
        return None
    table = np.array([(members[i].shard, members[i].offset, members[i].size) for i in chosen], np.int64)
    shard, offset, size = np.ascontiguousarray(table.T)
    of = np.array([labels.of[i] for i in chosen] if labels.of else [], np.int64)
    names = PackedNames([members[i].name for i in chosen])
    return Source(kind, root, names, shards, shard, offset, size, labels.classes, of, damaged)
