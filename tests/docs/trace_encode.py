"""Print the project's modules that one encode request runs through in both tiers; the sandboxed process is not seen."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.api.app import create_app
from service.engine.tokenizer import Engine
from service.in_process import LocalBackend
from service.sandbox.pool import MediaPool
from service.settings import Settings

ROOT = Path(__file__).parents[2]
tracing = threading.Event()
ran: dict[str, None] = {}


class Unobserved:
    """Takes reports and keeps none."""

    def __getattr__(self, name: str) -> Any:
        return lambda *report: None


def note(frame: FrameType, event: str, argument: Any) -> None:
    if event == "call" and tracing.is_set():
        ran.setdefault(frame.f_code.co_filename)


async def main(bundle: Path) -> None:
    settings = Settings()
    engine = Engine([bundle], "cpu", "float32", 1)
    backend = LocalBackend(engine.cards, engine.launch, settings, Unobserved())
    pool = MediaPool(settings.limits, 1)
    await pool.start()
    transport = httpx.ASGITransport(create_app(backend, pool, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://omnitok") as client:
        content = (ROOT / "docs/samples/igloo.png").read_bytes()
        tracing.set()
        answer = await client.post("/encode?size=64", content=content, headers={"Content-Type": "image/png"})
        tracing.clear()
        answer.raise_for_status()
    backend.close()
    await pool.stop()


with tempfile.TemporaryDirectory() as folder:
    save_bundle(Path(folder) / "debug", OmniTokenizer(CONFIGS["debug"]).eval(), "# debug")
    threading.setprofile(note)
    sys.setprofile(note)
    asyncio.run(main(Path(folder) / "debug"))
    sys.setprofile(None)
for name in ran:
    if name.startswith(f"{ROOT}/") and "/.venv/" not in name:
        print(Path(name).relative_to(ROOT))
