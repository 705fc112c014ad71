"""Runbooks: each page of docs/runbooks as a dashboard with the alert's own curve, and an index with the logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.dashboards.board import Board
from benchmarks.dashboards.panels import note, series

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "runbooks"
LOGS = """Standard output of the service has one JSON line a request, and its own faults as `internal` lines:

```sh
docker logs --since 15m $(docker compose ps -q api) 2>&1 | grep '"status": 5'
docker logs --since 15m $(docker compose ps -q api) 2>&1 | grep TRACE_ID
docker compose exec api sh -c 'tail -n 50 /tmp/ray/session_latest/logs/serve/*.log'
```

The second finds all lines of one trace; the third shows Ray's own logs, with tracebacks of tokenizers."""


class Runbook(Board):
    """The page of one alert."""

    indent = None  # docs/runbooks is what people read and compare

    @property
    def uid(self) -> str:
        """Return what `runbook_url` ends with."""
        return f"runbook-{self.name}"


def boards() -> Iterator[Board]:
    """Yield the index and one dashboard for each alert."""
    rules = list(_alerts())
    links = "\n".join(f"- [{rule['alert']}](/d/runbook-{rule['alert']})" for rule in rules)
    index = {"": [note("Runbooks", links, width=12, height=24), note("Logs", LOGS, width=12, height=12)]}
    yield Board("runbooks", "Runbooks and logs", "What to do when an alert fires, and where the logs are.", index, {})
    for rule in rules:
        name = rule["alert"]
        text = (PAGES / f"{name}.md").read_text().partition("\n\n")[2]
        text = re.sub(r"\]\((Omnitok\w+)\.md\)", r"](/d/runbook-\1)", text)
        text = re.sub(r"\[([^]]*)\]\(\.\./[^)]*\)", r"\1 (docs/)", text)
        curve = series(
            "The alert's expression",
            "none",
            {"{{instance}} {{deployment}} {{replica}} {{gpu}} {{mount}}": " ".join(rule["expr"].split())},
            "Where it has a value, the alert fires or will do so.",
            width=24,
        )
        about = " ".join(text.partition("\n\n")[0].split())
        panels = [note(name, text, height=22), curve]
        yield Runbook(name, f"Runbook: {name}", about, {"": panels}, {}, ("runbook",))


def _alerts() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]:
        yield from group["rules"]
