"""Files that are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.atomic_write import replacing


def test_two_that_write_one_path_at_once_both_end_well(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(path) as fresh:
        fresh.write_text(f"half of it {1 / 0}")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
