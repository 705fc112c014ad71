"""Logs as JSON lines: one per request, with numbers and names of ours, never a payload or a file name."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

LOGGER = logging.getLogger("omnitok.http")


class JsonLines(logging.Formatter):
    """One JSON object a record; `fields` of the record are merged into it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure() -> None:
    """Send the service's own log to standard error, once a process."""
    if not LOGGER.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        # The multipart parser warns of every malformed body; the request's own line says so already.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)


def event(level: int, name: str, fields: dict[str, Any], error: BaseException | None = None) -> None:
    """Write one line.

    Args:
        level: a level of `logging`.
        name: what happened.
        fields: JSON-ready details.
        error: the exception whose traceback belongs to it.
    """
    LOGGER.log(level, name, exc_info=error, extra={"fields": fields})
