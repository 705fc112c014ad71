"""The command of `benchmarks.bulk` refuses what it does not know, and profiles readers."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import bulk_readers
from benchmarks.bulk import app
from benchmarks.bulk_data import write_source
from model.codes.info import EncodingOptions
from service.bulk.sources import list_source


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [("--config", "nothing", "published"), ("--kind", "sounds", "clips"), ("--resize", "gpu", "readers")],
)
def test_a_wrong_choice_is_refused_with_those_that_there_are(option: str, value: str, known: str) -> None:
    result = CliRunner().invoke(app, [option, value])
    assert result.exit_code == 2
    assert value in result.output
    assert known in result.output


def test_readers_are_profiled_by_stage(tmp_path: Path) -> None:
    write_source(tmp_path, "images", 2)
    items = list_source(tmp_path).items["images"]
    line = bulk_readers.profile(items, EncodingOptions(64, 64), 2, 0.05)
    assert line.startswith("2 processes: ")
    for stage in (*bulk_readers.STAGES, "page faults", "GB/s"):
        assert stage in line
    assert "threads" in bulk_readers.machine()
