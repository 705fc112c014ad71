"""Pages name the hashes and the metrics that the demo bundles and their cards have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = {path.parent.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("bundles/*/config.json"))}
STAGES = {
    "demo-vq": "`long-decoder`",
    "demo-vq-sharp": "`sharp`",
    "demo-vae": "`kl-decoder`",
    "demo-vq-fine": "`demo-fine`",
}


def rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of the tables of a page."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_api_page_names_the_hashes_of_the_bundles() -> None:
    named = re.findall(r'hash": "(\w{64})"|"bundle": "(\w{64})"', (ROOT / "docs/api.md").read_text())
    assert named
    assert {first or second for first, second in named} <= {config["hash"] for config in CONFIGS.values()}


@pytest.mark.parametrize("name", ["demo-lm", "demo-latte"])
def test_a_generator_and_its_card_name_a_tokenizer_of_the_repository(name: str) -> None:
    tokenizer, digits = re.search(
        r"tokenizer\s(\S+) \((\w{12})", (ROOT / f"bundles/{name}/README.md").read_text()
    ).groups()
    assert CONFIGS[name]["tokenizer_hash"] == CONFIGS[tokenizer]["hash"]
    assert CONFIGS[tokenizer]["hash"].startswith(digits)


@pytest.mark.parametrize("name", STAGES)
def test_the_page_of_stages_has_the_metrics_of_the_card(name: str) -> None:
    card = [row for row in rows((ROOT / f"bundles/{name}/README.md").read_text()) if len(row) == 6 and row[1].isdigit()]
    page = rows((ROOT / "docs/demo-training.md").read_text())
    start = next(number for number, row in enumerate(page) if row[0] == "set")
    column = page[start].index(STAGES[name])
    shown = [row[column].split(", ")[:2] for row in page[start + 2 : start + 2 + len(card)]]
    assert shown == [row[2:4] for row in card]
    assert len(shown) == 5
