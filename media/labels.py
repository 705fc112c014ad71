"""Class labels of files: from a table in their folder, from the shards, or from folder names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

KIND_FOLDERS = frozenset({"images", "clips", "videos"})
LABEL_FILES = {"labels.csv": ",", "labels.tsv": "\t"}


class LabelError(Exception):
    """Labels that are wrong: the sentence names the file, and the table's line."""


class Named(Protocol):
    """A file with a name, and the class that its shard or list gives it, if any."""

    @property
    def name(self) -> str: ...

    @property
    def label(self) -> str | None: ...


@dataclass(frozen=True)
class Labels:
    """Classes by name, and the class of every item.

    Args:
        classes: names that labels count from 0, sorted; empty where items have no class.
        of: the label of every item, empty where there are no classes.
    """

    classes: tuple[str, ...]
    of: tuple[int, ...]


def find_label_file(root: Path) -> Path | None:
    """Return the table of labels of a folder, if it has one.

    Raises:
        LabelError: there are two.
    """
    found = [root / name for name in LABEL_FILES if (root / name).is_file()]
    if len(found) > 1:
        raise LabelError(f"{root} has both {found[0].name} and {found[1].name}: keep one.")
    return found[0] if found else None


def classify(members: Sequence[Named], table: Path | None) -> Labels:
    """Give every item its class; arguments and errors as of `class_names`."""
    return number_classes(class_names(members, table))


def class_names(members: Sequence[Named], table: Path | None) -> list[str]:
    """Return the name of every item's class, or nothing where items have no class.

    Args:
        members: the items.
        table: two columns `path,label`, for every item; or None, then labels that shards give, else the first folder
            of each name, below `images`, `clips` and `videos` where these hold all items; else no classes.

    Raises:
        LabelError: a line of the table is wrong, or some items have a class and others none.
    """
    if table is not None:
        given = _read(table, {member.name for member in members})
        named = [given.get(member.name) for member in members]
        source = table.name
    elif any(member.label is not None for member in members):
        named, source = [member.label for member in members], "the shards"
    else:
        folders = [member.name.split("/")[:-1] for member in members]
        if all(parts and parts[0] in KIND_FOLDERS for parts in folders):
            folders = [parts[1:] for parts in folders]
        named = [parts[0] if parts else None for parts in folders]
        if None in named:  # files in the top folder: folders are not classes
            return []
    if missing := [member.name for member, name in zip(members, named, strict=True) if name is None]:
        raise LabelError(f"{len(missing)} files have no label in {source}: {missing[0]!r} is the first.")
    return [name for name in named if name is not None]


def number_classes(named: Sequence[str]) -> Labels:
    """Number the classes of items from 0: by their values where all are whole numbers, else by their names."""
    names = set(named)
    whole = all(name.isdecimal() for name in names)
    classes = sorted(names, key=lambda name: (int(name), name) if whole else (0, name))
    number = {name: index for index, name in enumerate(classes)}
    return Labels(tuple(classes), tuple(number[name] for name in named))


def _read(table: Path, known: set[str]) -> dict[str, str]:
    """Read labels by path; what is wrong is named with its line."""
    labels: dict[str, str] = {}
    try:
        lines = csv.reader(io.StringIO(table.read_text(encoding="utf-8-sig")), delimiter=LABEL_FILES[table.name])
        rows = [(lines.line_num, row) for row in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{table} cannot be read as text: {error}") from error
    for line, row in rows:
        where = f"{table}, line {line}"
        if not row or (line == 1 and [cell.strip().lower() for cell in row] == ["path", "label"]):
            continue
        if len(row) != 2:
            raise LabelError(f"{where}: two columns are wanted, path and label, not {len(row)}: {row}")
        path, label = row[0].strip(), row[1].strip()
        if path not in known:
            raise LabelError(f"{where}: there is no image or video {path!r}.")
        if not label:
            raise LabelError(f"{where}: {path!r} has the empty label {row[1]!r}.")
        if labels.setdefault(path, label) != label:
            raise LabelError(f"{where}: {path!r} has the label {label!r}, but {labels[path]!r} in a line above.")
    return labels
