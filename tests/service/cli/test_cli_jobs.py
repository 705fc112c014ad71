"""`omnitok jobs` against a service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Omnitok = Callable[..., Any]


def test_a_job_is_submitted_fetched_and_forgotten(
    omnitok: Omnitok, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # an id is whole there too
    at = f"--server {server}"
    run = omnitok(f"jobs submit {at} --class 'red fox' --seed 3")
    assert run.code == 0, run.err
    job = run.out.strip()
    assert omnitok(f"jobs fetch {job} {at}").code == 0
    assert omnitok(f"generate {at} --class 'red fox' --seed 3 -o same.png").code == 0
    assert Path(f"{job}.png").read_bytes() == Path("same.png").read_bytes()
    listed = omnitok(f"jobs list {at} --limit 5")
    assert job in listed.out
    assert "completed" in listed.out
    assert f"{job}: forgotten; it was completed" in omnitok(f"jobs cancel {job} {at}").out
    gone = omnitok(f"jobs fetch {job} {at}")
    assert gone.code == 1
    assert "unknown-job" in gone.err


@pytest.mark.parametrize(
    ("options", "suffix", "signature"),
    [
        ("--frames 5", ".mp4", b"ftyp"),
        ("--n 2", ".zip", b"PK"),
        ("--format webp", ".webp", b"WEBP"),
        ("--image start.npy --frames 5", ".mp4", b"ftyp"),
    ],
)
def test_the_form_of_the_content(omnitok: Omnitok, server: str, options: str, suffix: str, signature: bytes) -> None:
    np.save("start.npy", np.zeros((32, 32, 3), np.uint8))
    run = omnitok(f"jobs submit --server {server} --class 0 {options}")
    assert run.code == 0, run.err
    job = run.out.strip()
    assert omnitok(f"jobs fetch {job} --server {server}").code == 0
    assert signature in Path(f"{job}{suffix}").read_bytes()[:16]


def test_wrong_usage_is_named(omnitok: Omnitok, server: str) -> None:
    assert omnitok(f"jobs submit --server {server} --class 0 --format bmp2").code == 2
    run = omnitok(f"jobs submit --server {server} --class 'blue fox'")
    assert run.code == 1
    assert "red fox" in run.err
