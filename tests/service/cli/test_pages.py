"""Every command of the README, of docs/api.md and of the how-to pages works as it is printed there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "docs/api.md", *sorted((ROOT / "docs/how-to").glob("*.md"))]
HERE = "http://127.0.0.1:8000"
# a cluster of its own; a released checkpoint; packages from the internet; minutes of training
NEEDS_MORE = (
    *("omnitok serve", "omnitok convert", "omnitok data", "omnitok train", "omnitok evaluate", "omnitok tune"),
    "omnitok tokenize",
    "omnitok inspect my-data",
    "curl -sS https://your-gateway",
)
CURL = ["--noproxy", "*"]
SIGNATURES = {
    ".gif": b"GIF8",
    ".jpg": b"\xff\xd8\xff",
    ".mp4": b"ftyp",
    ".npz": b"PK",
    ".png": b"\x89PNG",
    ".webm": b"\x1a\x45\xdf\xa3",
    ".webp": b"WEBP",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return kind and text of every fenced block, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the lines of a page that can run here, each with the JSON that the page shows as its answer."""
    found = blocks(page)
    for (kind, block), (after, answer) in zip(found, [*found[1:], ("", "")], strict=True):
        lines = [line for line in block.splitlines() if kind == "sh" and line.startswith(("curl ", "omnitok "))]
        for line in lines:
            if not line.startswith(NEEDS_MORE):
                yield line, answer if after == "json" and line == lines[-1] else None


def form(value: Any) -> Any:
    """Return the keys and types of an answer, without its values."""
    if isinstance(value, dict):
        return {key: form(inner) for key, inner in value.items()}
    return [form(inner) for inner in value[:1]] if isinstance(value, list) else type(value)


@pytest.fixture
def checkout(omnitok: Callable[..., Any], bundles: Path) -> None:
    """The working folder looks like a fresh checkout, with a random bundle in place of the trained one."""
    Path("docs").symlink_to(ROOT / "docs")
    Path("bundles").mkdir()
    Path("bundles/demo-vq").symlink_to(bundles / "debug")
    Path("bundles/demo-vae").symlink_to(bundles / "vae")
    Path("bundles/demo-lm").symlink_to(bundles / "lm")
    Path("bundles/imagenet-ucf").symlink_to(bundles / "whole")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands(page: Path, omnitok: Callable[..., Any], checkout: None, server: str) -> None:
    for command, answer in commands(page):
        line = command.replace(HERE, server)
        if line.startswith("omnitok "):
            run = omnitok(line.removeprefix("omnitok ").split("  #")[0])
            assert run.code == 0, (command, run.err)
        elif shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        else:
            expect = [] if answer and "/problems/" in answer else ["--fail"]
            done = subprocess.run(
                [*shlex.split(line.replace("demo-vq", "debug")), *CURL, *expect],
                capture_output=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, (command, done.stderr)
            if answer:
                shown, real = json.loads(answer), json.loads(done.stdout)
                assert form(shown) == form(real)
                assert [real.get(key) for key in ("code", "detail")] == [shown.get(key) for key in ("code", "detail")]
    for path in (path for path in Path().glob("*.*") if path.suffix in SIGNATURES):
        assert SIGNATURES[path.suffix] in path.read_bytes()[:16], path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(kind == "python" for kind, _ in blocks(page))], ids=lambda page: page.name
)
def test_python_blocks(page: Path, checkout: None, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for program in (block for kind, block in blocks(page) if kind == "python" and not block.startswith("# ")):
        exec(program.replace(HERE, server), names)
    if page.name == "README.md":
        assert names["frames"].shape == (17, 128, 128, 3)
        assert names["picture"].shape == (1, 128, 128, 3)
        assert len(names["results"]) == 2
        assert "unsupported-media-type" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # openai's own service of videos is gone
def test_each_line_of_works_with(checkout: None, server: str, omnitok: Callable[..., Any]) -> None:
    for line in (
        "encode docs/samples/igloo.png --out igloo.npz",
        "encode docs/samples/flight.mp4 --out flight.safetensors",
    ):
        assert omnitok(f"{line} --size 32").code == 0
    before, after = PAGES[0].read_text(encoding="utf-8").split("## Works with\n")
    table = after.split("\n## ")[0]
    opened = re.findall(r'"(\w+\.\w+)"', table)
    assert opened
    assert all(f" -o {name}\n" in before for name in opened)  # whoever reads from the top has them
    lines = re.findall(r"\| `([^`]+)`", table)
    assert len(lines) > 10
    names: dict[str, Any] = {}
    for line in lines:
        if line.startswith("ln -s"):
            assert (ROOT / "examples/comfyui/__init__.py").is_file()
        else:
            exec(line.replace(HERE, server), names)
    assert names["sample"].shape == (1, 3, 128, 128)
    assert names["picture"].size == (320, 232)
