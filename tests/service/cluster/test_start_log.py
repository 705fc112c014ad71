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
