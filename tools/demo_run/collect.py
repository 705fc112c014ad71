"""Waits, and copies what is new from the run into a folder, in parts that a small channel takes."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tarfile
import time
from pathlib import Path

from tools.demo_run.life import lives, process_of, read_status
from tools.demo_run.plan import BUNDLES, RECORDS

RECORD_BYTES = 10 << 20  # of the logs, pictures and tables of a call


def wait(work: Path, until: float) -> bool:
    """Wait until a time of the host's clock, the end of the run, or the next job that fails.

    Returns:
        Whether the host lives or the run has ended.
    """
    seen = work / "failures-seen"
    known = set(seen.read_text().split()) if seen.exists() else set()
    while True:
        status = read_status(work)
        jobs = {name: job["status"] for name, job in status.get("jobs", {}).items()}
        failed = {name for name, one in jobs.items() if one in ("failed", "skipped")}
        if not status.get("ended") and not lives(work):
            return bool(read_status(work).get("ended"))  # it may have ended just now
        if status.get("ended") or failed - known:
            seen.write_text("\n".join(failed))
            return True
        # a host that was started a moment ago has not spoken yet, and may be about to die
        spoken = status.get("pid") == process_of(work)
        if spoken and time.time() - float((work / "clock").read_text()) >= until:
            return True
        time.sleep(0.2)


def bundle_archive(folder: Path) -> bytes | None:
    """Return the files of a bundle as one archive; None where training replaces the folder meanwhile."""
    buffer = io.BytesIO()
    try:
        place = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # files of this very folder, never of the one that takes its name
        with tarfile.open(fileobj=buffer, mode="w") as file:
            for name in sorted(os.listdir(place)):
                with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=place), "rb") as opened:
                    data = opened.read()
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    except FileNotFoundError:
        return None
    finally:
        os.close(place)
    return buffer.getvalue()


def record_archive(work: Path) -> bytes:
    """Return logs, curves, tables, and pictures as far as they fit: those of measurements, then the newest."""
    found = {path for pattern in RECORDS for path in work.glob(pattern) if path.is_file()}
    found = {path for path in found if not path.name.startswith(".")}  # being written
    pictures = [one for one in found if one.suffix in (".webp", ".png")]
    pictures.sort(key=lambda one: ("evaluation" not in str(one.relative_to(work)), -one.stat().st_mtime))
    buffer, room = io.BytesIO(), RECORD_BYTES
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=2) as file:
        for path in [*sorted(found - set(pictures)), *pictures]:
            if path.suffix not in (".webp", ".png") or (room := room - path.stat().st_size) > 0:
                file.add(path, str(path.relative_to(work)))
    return buffer.getvalue()


def main() -> None:
    """Copy finished bundles that were not sent, records, and unfinished bundles where nothing finished waits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--until", type=float, default=0)
    parser.add_argument("--mib", type=float, default=15, help="of a part")
    parser.add_argument("--files", type=int, default=8, help="of a call")
    parser.add_argument("--all-mib", type=float, default=60, help="of a call")
    arguments = parser.parse_args()
    work, most = arguments.work, int(arguments.mib * 2**20)
    lived = wait(work, arguments.until)
    if not lived:
        path = work / "supervisor.log"
        said = path.read_text(errors="replace").splitlines()[-20:] if path.exists() else []
        print(
            "THE HOST IS GONE OR SILENT; the next call goes on. The end of supervisor.log:", *said, sep="\n", flush=True
        )
    sent_file = work / "sent.json"
    sent: dict[str, str] = json.loads(sent_file.read_text()) if sent_file.exists() else {}
    records = record_archive(work)
    parts, room = [("records", records)], int(arguments.all_mib * 2**20) - len(records)
    for unfinished in (False, True):
        for name, folders in BUNDLES.items():
            folder = work / folders[unfinished]
            if not (folder / "config.json").is_file() or (unfinished and (work / folders[0] / "config.json").is_file()):
                continue
            data = bundle_archive(folder)
            if data is None:
                continue
            digest = hashlib.sha256(data).hexdigest()[:16]
            new = -(-len(data) // most)
            if sent.get(name) == digest or len(parts) + new > arguments.files or len(data) > room:
                continue
            label = f"{name}-latest" if unfinished else name
            parts += [(f"{label}.{digest}.{new}.{part}", data[part * most : (part + 1) * most]) for part in range(new)]
            room, sent[name] = room - len(data), digest
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, data in parts:
        (arguments.out / f"{name}.part").write_bytes(data)
    sent_file.write_text(json.dumps(sent))
    status = read_status(work)
    states = ", ".join(f"{name} {job['status']}" for name, job in status.get("jobs", {}).items())
    print(f"clock {status.get('clock')} of {status.get('end')}, GPUs {status.get('gpus')}: {states}")
    print("\n".join((work / "log").read_text().splitlines()[-40:]) if (work / "log").exists() else "")
    for state in sorted((work / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)[-4:]:
        print(f"{state.name}: " + " | ".join(state.read_text(errors="replace").splitlines()[-2:])[-400:])
    if not lived:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
