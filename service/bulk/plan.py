"""The shards of a run, those that are done already, and the manifest: a row an item in a file a shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from media.kinds import Kind
from model.atomic_write import replace_file
from model.codes import npy_tree
from model.codes.info import SUFFIXES, CodesInfo, shard_name
from model.codes.writer import read_manifest, write_manifest
from service.bulk.reading import read_bytes
from service.bulk.sources import Item, Listing

CHECK_THREADS = 8
QUARANTINE_FILE = "quarantine.jsonl"


class Shard(NamedTuple):
    """Items that are encoded together.

    Args:
        kind: of the items.
        number: of the shard, from 0 for each kind.
        first: number of its first item.
        items: in their order.
    """

    kind: Kind
    number: int
    first: int
    items: list[Item]

    @property
    def name(self) -> str:
        """Return its name, which its files begin with."""
        return shard_name(self.kind, self.number)


def plan_shards(listing: Listing, shard_items: dict[Kind, int]) -> list[Shard]:
    """Return the shards of a source, which follow from the order of its items alone."""
    return [
        Shard(kind, number, first, items[first : first + shard_items[kind]])
        for kind, items in listing.items.items()
        for number, first in enumerate(range(0, len(items), shard_items[kind]))
    ]


def record_of(shard: Shard, place: int) -> dict[str, Any]:
    """Return what a manifest says of an item before it is encoded."""
    item = shard.items[place]
    return {
        "item": shard.first + place,
        "key": item.key,
        "label": item.label,
        "shard": shard.name,
        "bytes": item.size,
        "stamp": item.stamp,
    }


def is_done(dest: Path, shard: Shard, info: CodesInfo) -> bool:
    """Return whether a shard is there and holds the present content of its items, except those that are damaged.

    Sizes and times of files are compared first, as `make` and Git do. Where they differ, the content decides: it is
    read and hashed, and the manifest takes the new times if it is the same.
    """
    records = read_manifest(dest, shard.name)
    if len(records) != len(shard.items):
        return False
    if any(record.get("retry") for record in records):
        return False
    if not all(path.is_file() for path in _files(dest, shard, info, records)):
        return False
    wanted = [record_of(shard, place) for place in range(len(shard.items))]
    if any(record[name] != one[name] for record, one in zip(records, wanted, strict=True) for name in ("key", "label")):
        return False
    changed = [
        place
        for place, (record, one) in enumerate(zip(records, wanted, strict=True))
        if (record["bytes"], record["stamp"]) != (one["bytes"], one["stamp"])
    ]
    if not changed:
        return True
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        hashes = list(pool.map(lambda place: _hash(shard.items[place]), changed))
    if any(
        found is None or found != records[place]["source_hash"] for place, found in zip(changed, hashes, strict=True)
    ):
        return False
    write_manifest(dest, shard.name, [record | one for record, one in zip(records, wanted, strict=True)])
    return True


def _files(dest: Path, shard: Shard, info: CodesInfo, records: Sequence[dict[str, Any]]) -> Iterator[Path]:
    """Yield the files that hold the rows of a shard."""
    done = [record["item"] for record in records if record["rows"]]
    if info.container == "npy":
        for item in done:
            yield from npy_tree.files(dest, info, item)
    elif done:
        yield dest / f"{shard.name}{SUFFIXES[info.container]}"


def _hash(item: Item) -> str | None:
    try:
        return hashlib.sha256(read_bytes(item)).hexdigest()
    except Exception:  # it is encoded again, and so listed with the reason
        return None


def all_records(dest: Path, shards: Sequence[Shard]) -> Iterator[dict[str, Any]]:
    """Yield the manifest's records of all shards."""
    for shard in shards:
        yield from read_manifest(dest, shard.name)


def write_quarantine(dest: Path, shards: Sequence[Shard], damaged: Sequence[tuple[str, str]]) -> int:
    """List the items that failed, and why; return their number."""
    lines = [{"key": key, "reason": f"The tar {problem}."} for key, problem in damaged]
    failed = (record for record in all_records(dest, shards) if record["status"] == "failed")
    lines += [{name: record[name] for name in ("key", "reason", "item", "shard")} for record in failed]
    replace_file(dest / QUARANTINE_FILE, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return len(lines)
