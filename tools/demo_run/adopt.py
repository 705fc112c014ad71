"""Joins what came back, checks it, and puts the bundles in place under the names of the repository."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path

from model.bundle import load_bundle, load_generator, read_config

# A generator speaks the codes of the tokenizer that it was trained on, so `demo-vq` is `long` and `demo-vae` is `kl`.
NAMES = {
    "long": "demo-vq", "sharp": "demo-vq-sharp", "kl": "demo-vae", "lm-demo": "demo-lm", "latte-demo": "demo-latte",
}  # fmt: skip
GENERATORS = {"lm-demo": "demo-vq", "latte-demo": "demo-vae"}
UNMEASURED = re.compile(r"Not measured yet: `omnitok evaluate` .*?\n(?=\n)", re.DOTALL)


def joined(returned: Path) -> dict[str, bytes]:
    """Return the newest whole archive of each name; an unfinished stage's only where the finished one is missing.

    Raises:
        SystemExit: a part is damaged.
    """
    found: dict[str, tuple[float, bytes]] = {}
    parts: dict[tuple[str, str, int], dict[int, Path]] = defaultdict(dict)
    for path in sorted(returned.rglob("*.part")):
        fields = path.name.removesuffix(".part").rsplit(".", 3)
        if len(fields) == 4:
            name, digest, count, index = fields
            parts[name, digest, int(count)][int(index)] = path
    for (name, digest, whole), files in parts.items():
        if len(files) < whole:
            print(f"{name} {digest}: {len(files)} of {whole} parts came back")
            continue
        data = b"".join(files[index].read_bytes() for index in range(whole))
        if hashlib.sha256(data).hexdigest()[:16] != digest:
            raise SystemExit(f"{name} is damaged on its way: one of {', '.join(map(str, files.values()))}")
        when = max(path.stat().st_mtime for path in files.values())
        if when >= found.get(name, (0.0, b""))[0]:
            found[name] = when, data
    latest = {name: name.removesuffix("-latest") for name in found}
    return {final: found[name][1] for name, final in latest.items() if name == final or final not in found}


def records(returned: Path, out: Path) -> None:
    """Unpack the records of every call, the last one last."""
    for path in sorted(returned.rglob("records.part"), key=lambda one: one.stat().st_mtime):
        with tarfile.open(path) as file:
            file.extractall(out, filter="data")


def card(text: str, name: str, commit: str) -> str:
    """Return a card with what the host did not know: names of the repository, and the commit."""
    own = NAMES[name]
    text = re.sub(r"^# \S+", f"# {own}", text, count=1)
    text = text.replace("code at an unknown version", f"code at {commit}").replace(
        "the bundle begin,", "the former bundle demo-vq,"
    )
    return text.replace("of the tokenizer bundle (", f"of the tokenizer {GENERATORS.get(name, '')} (")


def with_metrics(text: str, metrics: str) -> str:
    """Return a card with its tables of metrics."""
    return UNMEASURED.sub(lambda _: metrics.strip() + "\n", text, count=1)


def install(archives: dict[str, bytes], bundles: Path, commit: str) -> dict[str, Path]:
    """Unpack, check and name the bundles; return their folders."""
    placed = {}
    for name, data in archives.items():
        folder, fresh = bundles / NAMES[name], bundles / f".{NAMES[name]}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as file:
            file.extractall(fresh, filter="data")
        loaded = load_generator(fresh) if name in GENERATORS else load_bundle(fresh)  # reads the hashes of all files
        path = fresh / "README.md"
        path.write_text(card(path.read_text(encoding="utf-8"), name, commit), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
        placed[name] = folder
        print(f"{folder}: {loaded.hash[:12]}, {sum(one.stat().st_size for one in folder.iterdir()) / 1e6:.1f} MB")
    return placed


def is_of(measured: Path, bundle: Path) -> bool:
    """Return whether the host measured these very weights."""
    path = measured / "evaluation.json"
    return path.is_file() and json.loads(path.read_text())["bundle"] == read_config(bundle).hash


def main() -> None:
    """Join and install, or put metrics into the cards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("install", "cards"))
    parser.add_argument("--returned", type=Path, default=Path("build/demo_run/returned"))
    parser.add_argument("--records", type=Path, default=Path("build/demo_run/records"))
    parser.add_argument("--bundles", type=Path, default=Path("bundles"))
    parser.add_argument("--evaluations", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--commit", help="of the code that ran; by default the one that built the packs")
    arguments = parser.parse_args()
    if arguments.step == "install":
        records(arguments.returned, arguments.records)
        commit = arguments.commit or (arguments.records / "COMMIT").read_text().strip()
        placed = install(joined(arguments.returned), arguments.bundles, commit)
        for name, folder in placed.items():
            measured = arguments.records / "runs" / f"evaluation-{name}"
            if is_of(measured, folder):
                shutil.copytree(measured, arguments.evaluations / NAMES[name], dirs_exist_ok=True)
        for name, tokenizer in GENERATORS.items():
            if name in placed:
                wanted, there = (
                    read_config(placed[name]).tokenizer_hash,
                    read_config(arguments.bundles / tokenizer).hash,
                )
                print(f"{name} " + ("fits" if wanted == there else "DOES NOT FIT") + f" {tokenizer}")
        (arguments.records / "placed.json").write_text(json.dumps({name: str(path) for name, path in placed.items()}))
        return
    for name, folder in json.loads((arguments.records / "placed.json").read_text()).items():
        host = arguments.records / "runs" / name / "evaluation" / "metrics.md"
        home = arguments.evaluations / NAMES[name] / "metrics.md"
        metrics = next((path for path in (home, host) if path.is_file()), None)
        if metrics is None:
            print(f"{name} has no metrics")
            continue
        path = Path(folder) / "README.md"
        path.write_text(
            with_metrics(path.read_text(encoding="utf-8"), metrics.read_text(encoding="utf-8")), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
