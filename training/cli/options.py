"""Options that several training commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:N.", show_default="cuda where there is one")
]
FpsOption = Annotated[
    float | None, typer.Option("--fps", min=0.01, help="Frames per second of clips.", show_default="as recorded")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes.", show_default="one per core")]
