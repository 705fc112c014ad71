"""`omnitok tokenize` looks before it starts Ray, and says that a stopped run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bulk_samples import EXECUTOR, SQUARES, Stopping, Tokenize, content, photo

from model.codes.writer import read_manifest, write_manifest
from service.bulk import pipeline
from service.bulk.job import Job, Request
from service.cli.tokenize import tokenize as command


def test_the_command_goes_on_and_starts_nothing_when_all_is_done(
    source: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executors: list[Any] = [Stopping(1), EXECUTOR]

    @contextmanager
    def started(*options: object) -> Iterator[Any]:
        yield executors.pop(0)

    monkeypatch.setattr(pipeline, "ray_executor", started)

    def run() -> str:
        command(source, tmp_path / "codes", bundle, size="32", frames=5, shard_items=4)
        return capsys.readouterr().err

    with pytest.raises(KeyboardInterrupt):
        run()
    assert "Stopped. The same command goes on where it stopped." in capsys.readouterr().err
    assert "with the start; 4 items were done before" in run()
    done = content(tmp_path / "codes")
    said = run()
    assert "7 rows of images and 2 rows of clips; 11 items were done before" in said
    assert "Failed items: 2;" in said
    assert content(tmp_path / "codes") == done


def test_only_what_a_run_would_leave_alone_is_finished(tokenize: Tokenize, bundle: Path, tmp_path: Path) -> None:
    folder, dest = tmp_path / "data", tmp_path / "codes"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo(0))
    (folder / "b.jpg").write_bytes(b"no picture")

    def finished(device: str = "auto", dtype: str | None = None) -> bool:
        return Job(Request(folder, dest, bundle, SQUARES)).finished(device, dtype) is not None

    assert not finished()
    assert not dest.exists()
    tokenize(dest, folder)
    assert finished()
    assert finished("cpu")
    assert not finished("cuda")
    assert not finished(dtype="bfloat16")
    records = read_manifest(dest, "images-00000")
    write_manifest(dest, "images-00000", [record | {"retry": record["status"] == "failed"} for record in records])
    assert not finished(), "what failed by the machine is tried again"
    write_manifest(dest, "images-00000", records)
    assert finished()
    (folder / "b.jpg").write_bytes(photo(1))
    assert not finished()
    tokenize(dest, folder)
    assert finished()
    (folder / "c.jpg").write_bytes(photo(2))
    assert not finished()
