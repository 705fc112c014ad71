"""A start that hangs has logged all stages before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from service.api import log
from service.cluster.start_log import StartLog


def test_a_line_is_written_at_once_where_the_constructor_keeps_the_event_loop(tmp_path: Path) -> None:
    async def stages() -> list[str]:
        start = StartLog()
        for stage in ("libraries", "bundles"):
            start.reached(stage)
        return (tmp_path / "log").read_text().splitlines()

    log.configure(tmp_path / "log")
    try:
        lines = asyncio.run(stages())
    finally:
        log.configure()
    assert [json.loads(line)["stage"] for line in lines] == ["libraries", "bundles"]


def test_a_line_has_the_seconds_of_its_stage_alone(tmp_path: Path) -> None:
    times = iter((100.0, 103.25, 104.0, 104.0, 109.0))
    log.configure(tmp_path / "log")
    try:
        start = StartLog(lambda: next(times))
        for stage in ("libraries", "bundles", "replica"):
            start.reached(stage)
        assert start.seconds == 9.0
    finally:
        log.configure()
    lines = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert [(line["stage"], line["seconds"]) for line in lines] == [
        ("libraries", 3.25),
        ("bundles", 0.75),
        ("replica", 0.0),
    ]
