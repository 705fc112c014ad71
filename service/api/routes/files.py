"""Files of a folder over HTTP, whole or a part of them."""

from __future__ import annotations

import os
import re
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

RANGE = re.compile(r"bytes=([0-9]{1,12})-([0-9]{0,12})", re.ASCII)


class Files(StaticFiles):
    """The files of a folder. Ranges that Starlette would refuse, in plain text, are ignored (RFC 9110, 14.2)."""

    def file_response(
        self, full_path: Any, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or 304."""
        headers = MutableHeaders(scope=scope)
        wanted, size = RANGE.fullmatch(headers.get("range", "")), stat_result.st_size
        if wanted is None or int(wanted[1]) > min(int(wanted[2] or size), size - 1):
            del headers["range"]
        return super().file_response(full_path, stat_result, scope, status_code)
