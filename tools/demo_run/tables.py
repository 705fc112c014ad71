"""Writes the metrics of the new bundles into the tables of docs/demo-training.md."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from tools.demo_run.adopt import NAMES

ROW_NAMES = {
    "photographs, 128x128": "photographs, 128", "photographs, 256x256": "photographs, 256",
    "camera clips, 17x128x128": "camera clips", "unseen game levels, 17x128x128": "unseen game levels",
    "unseen maps, 17x128x128": "unseen maps",
}  # fmt: skip
FRAMES = {
    "1": (0, 1),
    "2 to 5": (1, 5),
    "6 to 17": (5, 17),
    "18 to 33": (17, 33),
    "34 to 65": (33, 65),
    "last": (64, 65),
}
TOKENIZERS = ("long", "sharp", "kl")
FOLDERS = {"long": "demo/3-long", "kl": "demo/5-kl", "sharp": "sharp/4-sharp"}
Table = list[list[str]]


def read_json(path: Path) -> Any:
    """Return what a file holds, or None where it is missing."""
    return json.loads(path.read_text()) if path.is_file() else None


def split_row(line: str) -> list[str]:
    """Return the cells of a row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def find_table(lines: list[str], first: str, number: int = 0) -> tuple[int, int]:
    """Return the lines of the table whose header begins so."""
    begins = [place for place, line in enumerate(lines) if line.startswith(first)][number]
    ends = begins
    while ends < len(lines) and lines[ends].startswith("|"):
        ends += 1
    return begins, ends


def update(lines: list[str], first: str, values: dict[str, dict[str, str]], by_row: bool, number: int = 0) -> list[str]:
    """Return the page with new cells in a table: rows or columns by name, added where they are missing."""
    begins, ends = find_table(lines, first, number)
    table: Table = [split_row(line) for line in lines[begins:ends] if not set(line) <= set("|- ")]
    if not by_row:
        table = [list(row) for row in zip(*table, strict=True)]
    header = table[0]
    for name, cells in values.items():
        row = next((row for row in table[1:] if row[0].strip("`") == name), None)
        if row is None:
            row = [f"`{name}`", *["-"] * (len(header) - 1)]
            table.append(row)
        for key, cell in cells.items():
            if key in header:
                row[header.index(key)] = cell
    if not by_row:
        table = [list(row) for row in zip(*table, strict=True)]
    text = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in table]
    text.insert(1, "|" + " --- |" * len(table[0]))
    return lines[:begins] + text + lines[ends:]


def scores(evaluations: Path) -> dict[str, dict[str, str]]:
    """Return PSNR, SSIM and VGG distance by tokenizer and set."""
    found: dict[str, dict[str, str]] = {}
    for name in TOKENIZERS:
        for one in (read_json(evaluations / NAMES[name] / "evaluation.json") or {"results": []})["results"]:
            parts = [f"{one['psnr']:.2f}", f"{one['ssim']:.3f}"]
            parts += [f"{metric['value']:.3f}" for metric in one["metrics"] if metric["name"] == "VGG distance"]
            found.setdefault(name, {})[ROW_NAMES[one["title"]]] = ", ".join(parts)
    return found


def by_frame(evaluations: Path) -> dict[str, dict[str, str]]:
    """Return PSNR by tokenizer and range of frames."""
    found = {}
    for name in TOKENIZERS:
        if record := read_json(evaluations / NAMES[name] / "sweep" / "psnr-by-frame.json"):
            curve = record["psnr"]["whole"]
            means = {title: sum(curve[a:b]) / len(curve[a:b]) for title, (a, b) in FRAMES.items() if curve[a:b]}
            found[name] = {title: f"{mean:.2f}" for title, mean in means.items()}
    return found


def codecs(evaluations: Path) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Return the rows of both tables of codecs."""
    names = {new: old for old, new in NAMES.items()}
    quality: dict[str, dict[str, str]] = {}
    same: dict[str, dict[str, str]] = {}
    for row in read_json(evaluations / "codecs.json") or []:
        name, side = names.get(row["name"], row["name"]), f"{row['side']} pixels"
        size = "latents" if row["mean_bytes"] is None else f"{row['mean_bytes']:,.0f}"
        quality.setdefault(name, {})[side] = f"{size}: {row['psnr']:.2f}, {row['ssim']:.3f}, {row['vgg']:.2f}"
        if row["same_psnr"]:
            same.setdefault(name, {})[side] = ", ".join(f"{value:,.0f}" for value in row["same_psnr"].values())
    return quality, same


def lengths(records: Path) -> dict[str, dict[str, str]]:
    """Return steps and rates of the stages."""
    found = {}
    for name, folder in FOLDERS.items():
        path = records / "runs" / folder / "metrics.csv"
        if path.is_file() and (rows := list(csv.DictReader(path.open()))):
            rates = [float(row["steps_per_second"]) for row in rows if row["steps_per_second"]]
            rate = sorted(rates)[len(rates) // 2]
            found[name] = {"steps": f"{int(rows[-1]['step']):,}", "steps/s": f"{rate:.1f}"}
    return found


def main() -> None:
    """Update the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/demo-training.md"))
    parser.add_argument("--evaluations", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--records", type=Path, default=Path("build/demo_run/records"))
    arguments = parser.parse_args()
    quality, same = codecs(arguments.evaluations)
    lines = arguments.page.read_text(encoding="utf-8").splitlines()
    lines = update(lines, "| stage | from |", lengths(arguments.records), by_row=True)
    lines = update(lines, "| set | ", scores(arguments.evaluations), by_row=False)
    lines = update(lines, "| | 1 | ", by_frame(arguments.evaluations), by_row=True)
    lines = update(lines, "| | 64 pixels ", quality, by_row=True)
    lines = update(lines, "| | 64 pixels ", same, by_row=True, number=1)
    arguments.page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
