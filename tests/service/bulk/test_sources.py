"""The forms of a source hold the same items."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk.errors import BulkError
from service.bulk.reading import read_bytes
from service.bulk.sources import Listing, list_source
from training.data.files import find_sources


def contents(listing: Listing) -> dict[str, list[tuple[str, bytes]]]:
    """Class and bytes of the items of each kind."""
    return {
        kind: sorted((listing.classes[item.label], read_bytes(item)) for item in items if item.size)
        for kind, items in listing.items.items()
    }


def media(source: Path) -> list[Path]:
    return sorted(path for path in source.rglob("*") if path.is_file() and path.stat().st_size)


def test_tars_lists_and_parquet_hold_what_the_folder_holds(source: Path, tmp_path: Path) -> None:
    wanted = contents(list_source(source))
    paths = media(source)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number, path in enumerate(paths):
            for name, data in ((path.suffix, path.read_bytes()), (".cls", path.parent.name.encode())):
                member = tarfile.TarInfo(f"{number:03d}{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    listing = list_source(tmp_path / "shard.tar")
    assert contents(listing) == wanted

    lines = [f"{path}\t{path.parent.name}" for path in paths]
    (tmp_path / "list.tsv").write_text("\n".join(lines))
    assert contents(list_source(tmp_path / "list.tsv")) == wanted

    (tmp_path / "parquet").mkdir()
    rows = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths]}
    rows |= {"label": [path.parent.name for path in paths], "key": [str(path.relative_to(source)) for path in paths]}
    pq.write_table(pa.table(rows), tmp_path / "parquet" / "0.parquet", row_group_size=4)
    assert contents(list_source(tmp_path / "parquet")) == wanted


@pytest.mark.parametrize("labels", [[7, 10, 2, 10], ["7", "10", "2", "10"]])
def test_whole_numbers_are_classes_in_the_order_of_folders(tmp_path: Path, labels: list[object]) -> None:
    rows = {"image": [b"\xff\xd8"] * 4, "key": list("abcd"), "label": labels}
    pq.write_table(pa.table(rows), tmp_path / "0.parquet")
    listing = list_source(tmp_path)
    assert listing.classes == ("2", "7", "10")
    assert [item.label for item in listing.items["images"]] == [1, 2, 0, 2]


def test_classes_are_below_the_folders_of_kinds(tmp_path: Path) -> None:
    for name in ("images/ant/a.jpg", "images/bee/b.jpg", "clips/ant/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    listing = list_source(tmp_path)
    assert listing.classes == ("ant", "bee")
    assert [item.label for item in listing.items["images"]] == [0, 1]
    assert [item.label for item in listing.items["clips"]] == [0]
    (tmp_path / "images" / "of none.jpg").write_bytes(b"x")
    assert list_source(tmp_path).classes == ()
    (tmp_path / "images" / "of none.jpg").rename(tmp_path / "images" / "ant" / "d.jpg")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "e.jpg").write_bytes(b"x")
    assert list_source(tmp_path).classes == ("clips", "images", "other"), "they do not hold all items"


def test_tables_inside_the_folders_of_kinds_are_read_as_in_training(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "images/b.jpg", "clips/ant/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    with tarfile.open(tmp_path / "images" / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("d.jpg"))
    (tmp_path / "images" / "labels.csv").write_text("path,label\na.jpg,bee\nb.jpg,ant\nd.jpg,cow\n")
    listing = list_source(tmp_path)
    assert listing.classes == ("ant", "bee", "cow")
    assert {item.key: item.label for items in listing.items.values() for item in items} == {
        "images/a.jpg": 1,
        "images/b.jpg": 0,
        "d.jpg": 2,
        "clips/ant/c.mp4": 0,
    }
    assert listing.sentence.startswith("3 images and 1 clip of ")
    images, clips = find_sources(tmp_path)
    assert images is not None
    assert clips is not None
    assert [images.classes[label] for label in images.labels] == ["bee", "ant", "cow"]
    (tmp_path / "clips" / "of none.mp4").write_bytes(b"x")
    with pytest.raises(BulkError, match=r"images/labels.csv has labels, and 2 files of .*clips have none\.$"):
        list_source(tmp_path)
    (tmp_path / "labels.csv").write_text("path,label\n")
    with pytest.raises(BulkError, match=r"both have labels: keep one\.$"):
        list_source(tmp_path)


def test_labels_that_are_hidden_are_none(tmp_path: Path) -> None:
    rows = {"image": [b"\xff\xd8"] * 2, "label": [-1, -1]}
    pq.write_table(pa.table(rows), tmp_path / "0.parquet")
    assert list_source(tmp_path).classes == ()
    pq.write_table(pa.table(rows | {"label": [-1, 4]}), tmp_path / "0.parquet")
    with pytest.raises(BulkError, match=r"1 rows of .* have no label"):
        list_source(tmp_path)


def test_parquet_with_other_items_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "metadata.parquet")
    (tmp_path / "a.jpg").write_bytes(b"a picture")
    with pytest.raises(BulkError, match=r"such as .*a.jpg"):
        list_source(tmp_path)


def test_a_damaged_tar_is_named_and_read_up_to_there(source: Path, tmp_path: Path) -> None:
    paths = media(source)[:3]
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        for path in paths:
            tar.add(path, path.name)
    data = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "whole.tar").unlink()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) - tarfile.RECORDSIZE - 600])
    listing = list_source(tmp_path)
    assert listing.damaged
    assert listing.damaged[0][0] == "cut.tar"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x.jpg,1,2", "one or two columns are wanted"),
        ("a.txt", "x.pdf", "neither a picture nor a video"),
        ("a.txt", "x.jpg\nx.jpg", "named twice"),
        ("a.txt", "", "holds no pictures"),
    ],
)
def test_lists_that_are_wrong_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BulkError, match=message):
        list_source(tmp_path / name)


def test_lines_of_a_list_end_at_no_other_separator(tmp_path: Path) -> None:
    names = ["a\u2028b.jpg", "c\x85.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"\xff\xd8")
    (tmp_path / "list.txt").write_bytes("\r\n".join(names).encode())
    listing = list_source(tmp_path / "list.txt")
    assert [item.key for item in listing.items["images"]] == names
