"""The items of a source: folders of files, WebDataset tars, Parquet files with bytes, or a list of files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from media.identify import HEAD_BYTES, IMAGE_TYPES, sniff
from media.kinds import KINDS, Kind, kind_of
from media.labels import (
    KIND_FOLDERS,
    LabelError,
    Labels,
    class_names,
    classify,
    find_label_file,
    number_classes,
)
from media.tar_index import COMPRESSED_TARS, Member, index_tar
from media.walk import walk_files
from service.bulk.errors import BulkError

LISTS = {".txt": "\t", ".lst": "\t", ".tsv": "\t", ".csv": ","}
# Columns of Parquet files, the first that is there.
BYTES_COLUMNS = ("image", "video", "bytes", "jpg", "jpeg", "png", "webp", "mp4", "content")
KEY_COLUMNS = ("__key__", "key", "id", "path", "file_name")
LABEL_COLUMNS = ("label", "cls", "class")
UNLABELLED = -1  # as Hugging Face marks rows of its hidden test sets
WHOLE_FILE, PARQUET_ROW = -1, -2


class Item(NamedTuple):
    """One picture or clip.

    Args:
        key: its name in the source.
        label: its class; -1 where it has none.
        file: path of the file that holds it.
        size: its bytes; -1 where only reading says.
        stamp: time of the file's last change, nanoseconds; with the size, a guess at its content.
        start: where it is in a tar, or `WHOLE_FILE`, or `PARQUET_ROW` minus the row.
    """

    key: str
    label: int
    file: str
    size: int
    stamp: int
    start: int


@dataclass(frozen=True)
class Listing:
    """The contents of a source.

    Args:
        items: of each kind, in an order that follows from their names.
        classes: names that labels count from 0; empty where items have no class.
        sentence: says what the data is.
        damaged: tar shards that end early or are none, with the reason; what they hold before is listed.
    """

    items: dict[Kind, list[Item]]
    classes: tuple[str, ...]
    sentence: str
    damaged: tuple[tuple[str, str], ...] = ()


def list_source(source: Path) -> Listing:
    """Find the items of a source.

    Raises:
        BulkError: there are none, or their labels are wrong.
        OSError: the source cannot be read.
    """
    if not source.exists():
        raise BulkError(f"{source} does not exist.")
    source = source.resolve()
    name = source.name
    damaged: list[tuple[str, str]] = []
    try:
        if source.is_file() and source.suffix.lower() in LISTS:
            base, members, labels = _of_list(source)
        else:
            paths = [source] if source.is_file() else [source / found for found in walk_files(source)]
            parquets = [path for path in paths if path.suffix.lower() == ".parquet"]
            if parquets:
                _check_parquet_alone(parquets[0], paths)
                return _of_parquet(parquets, name)
            base = source.parent if source.is_file() else source
            members, damaged = _members(base, paths)
            labels = _labels(base, members)
    except LabelError as error:
        raise BulkError(str(error)) from error
    items: dict[Kind, list[Item]] = {kind: [] for kind in KINDS}
    stamps: dict[Path, os.stat_result | None] = {}
    for index, (path, member) in enumerate(members):
        if path not in stamps:
            stamps[path] = _status(path)
        status = stamps[path]
        size = member.size if member.shard >= 0 else status.st_size if status else -1
        label = labels.of[index] if labels.of else -1
        stamp = status.st_mtime_ns if status else 0
        start = member.offset if member.shard >= 0 else WHOLE_FILE
        kind = kind_of(member.name)
        assert kind is not None
        items[kind].append(Item(member.name, label, str(path), size, stamp, start))
    return _checked(items, labels.classes, name, source, tuple(damaged))


class _Found(NamedTuple):
    """A member and the file that holds it; `classify` reads name and label."""

    path: Path
    member: Member

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def label(self) -> str | None:
        return self.member.label

    def below(self, folder: str) -> _Found:
        """Return it with the name that it has in a folder; names inside tars have no folder."""
        return self._replace(member=replace(self.member, name=self.name.removeprefix(f"{folder}/")))


def _checked(
    items: dict[Kind, list[Item]],
    classes: tuple[str, ...],
    name: str,
    source: Path,
    damaged: tuple[tuple[str, str], ...] = (),
) -> Listing:
    counts = [counted(len(found), kind) for kind, found in items.items() if found]
    if not counts:
        raise BulkError(f"{source} holds no pictures, videos, tar shards or Parquet files with bytes.")
    present = {kind: found for kind, found in items.items() if found}
    return Listing(present, classes, f"{' and '.join(counts)} of {name}", damaged)


def counted(number: int, things: str) -> str:
    """Return a number of things, whose name is a plural in s."""
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # which reading meets again, and lists with the reason
        return None


def _members(base: Path, paths: Sequence[Path]) -> tuple[list[_Found], list[tuple[str, str]]]:
    """Return the media of files by name, then those of each tar as it holds them, and damaged tars."""
    found, damaged = [], []
    for number, path in enumerate(paths):
        lower = path.name.lower()
        if lower.endswith(COMPRESSED_TARS):
            raise BulkError(f"{path} is compressed, so its items cannot be read in any order: unpack it to .tar.")
        if lower.endswith(".tar"):
            members, problem = index_tar(path, number)
            if problem:  # what is lost has no name that a manifest could list
                damaged.append((str(path.relative_to(base)), problem))
            found += [_Found(path, member) for member in members]
        else:
            found.append(_Found(path, Member(str(path.relative_to(base)), -1, 0, 0, None)))
    known = [one for one in found if kind_of(one.name)]
    # A tar is read from its begin to its end, which disks and networks do best.
    return sorted(known, key=lambda one: (one.member.shard, one.member.offset, os.fsencode(one.name))), damaged


def _labels(base: Path, members: Sequence[_Found]) -> Labels:
    """Give every item its class, by tables inside `images`, `clips` and `videos` too, as training reads them."""
    folders: dict[str, list[int]] = {}
    for index, one in enumerate(members):
        folders.setdefault(one.path.relative_to(base).parts[0], []).append(index)
    tables = {name: find_label_file(base / name) for name in folders.keys() & KIND_FOLDERS}
    whole, inner = find_label_file(base), next(filter(None, tables.values()), None)
    if inner is None:
        return classify(members, whole)
    if whole is not None:
        raise LabelError(f"{whole} and {inner} both have labels: keep one.")
    named = [""] * len(members)
    for folder, indices in folders.items():
        inside = [members[index].below(folder) for index in indices]
        names = class_names(inside, tables.get(folder))
        if not names:
            raise LabelError(f"{inner} has labels, and {len(inside)} files of {base / folder} have none.")
        for index, name in zip(indices, names, strict=True):
            named[index] = name
    return number_classes(named)


def _of_list(source: Path) -> tuple[Path, list[_Found], Labels]:
    """Read a list: a path a line, relative to the list's folder, and a label where there is a second column."""
    base, found, named = source.parent, [], []
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BulkError(f"{source} cannot be read as text: {error}.") from error
    lines = csv.reader(io.StringIO(text), delimiter=LISTS[source.suffix.lower()])
    seen: set[str] = set()
    for row in lines:
        if not row or not row[0].strip() or (lines.line_num == 1 and row[0].strip().lower() == "path"):
            continue
        path = row[0].strip()
        where = f"{source}, line {lines.line_num}"
        if len(row) > 2:
            raise BulkError(f"{where}: one or two columns are wanted, path and label, not {len(row)}.")
        if not kind_of(path):
            raise BulkError(f"{where}: {path!r} has the name of neither a picture nor a video.")
        if path in seen:
            raise BulkError(f"{where}: {path!r} is named twice.")
        seen.add(path)
        found.append(_Found(base / path, Member(path, -1, 0, 0, row[1].strip() if len(row) == 2 else None)))
        named.append(found[-1].label)
    labels = classify(found, None) if any(label is not None for label in named) else Labels((), ())
    return base, found, labels


def _check_parquet_alone(parquet: Path, paths: Sequence[Path]) -> None:
    """Refuse a folder that holds items in two forms, of which one would be left out."""
    others = [path for path in paths if path.suffix.lower() == ".tar" or kind_of(path.name)]
    if others:
        raise BulkError(
            f"There are {parquet} and {len(others):,} pictures, videos or tars, such as {others[0]}. "
            "Name the Parquet files alone, or move them out of the folder."
        )


def _of_parquet(paths: Sequence[Path], name: str) -> Listing:
    """List the rows of Parquet files; only keys and labels are read."""
    import pyarrow.parquet as pq

    items: dict[Kind, list[Item]] = {kind: [] for kind in KINDS}
    keys: list[str] = []
    labels: list[str | None] = []
    places: list[tuple[Path, int]] = []
    for path in paths:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
        key_column = next((one for one in KEY_COLUMNS if one in columns), None)
        label_column = next((one for one in LABEL_COLUMNS if one in columns), None)
        wanted = [one for one in (key_column, label_column) if one]
        table = file.read(columns=wanted) if wanted else None
        own = table[key_column].to_pylist() if table is not None and key_column else [None] * file.metadata.num_rows
        keys += [f"{path.name}:{row}" if key is None else str(key) for row, key in enumerate(own)]
        given = table[label_column].to_pylist() if table is not None and label_column else [None] * len(own)
        labels += [None if label in (None, UNLABELLED) else str(label) for label in given]
        places += [(path, row) for row in range(len(own))]
    names = [label for label in labels if label is not None]
    if names and len(names) < len(labels):
        raise BulkError(f"{labels.count(None):,} rows of {name} have no label (none, or -1), and others have one.")
    classes = number_classes(names)
    numbers = classes.of or [-1] * len(labels)
    kinds = {path: _parquet_kind(path) for path in paths}
    stamps = {path: path.stat().st_mtime_ns for path in paths}
    for key, label, (path, row) in zip(keys, numbers, places, strict=True):
        item = Item(key, label, str(path), -1, stamps[path], PARQUET_ROW - row)
        items[kind_of(key) or kinds[path]].append(item)
    return _checked(items, classes.classes, name, paths[0].parent)


def bytes_column(names: Sequence[str], path: str) -> str:
    """Return the column of a Parquet file that holds media.

    Raises:
        BulkError: there is none.
    """
    found = next((one for one in BYTES_COLUMNS if one in names), None)
    if found is None:
        raise BulkError(f"{path} has the columns {', '.join(names)}, and none of {', '.join(BYTES_COLUMNS)}.")
    return found


def _parquet_kind(path: Path) -> Kind:
    """Return the kind of a Parquet file's media, by its first row."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    column = bytes_column(file.schema_arrow.names, str(path))
    for batch in file.iter_batches(1, columns=[column]):
        value = batch.column(0)[0].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        media_type = sniff(bytes(data or b"")[:HEAD_BYTES])
        return "clips" if media_type is not None and media_type not in IMAGE_TYPES else "images"
    return "images"
