"""Commands of pages that train: what a recipe needs is fetched before it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_networks_are_fetched_before_a_recipe_that_needs_them(page: Path) -> None:
    for block in re.findall("```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for found in re.finditer(r"omnitok train ([\w-]+)(.*)", block):
            recipe, options = RECIPES.get(found[1]), found[2]
            only = re.search(r"--stage (\S+)", options)
            stages = [] if recipe is None else recipe.stages if only is None else (recipe.stage(only[1]),)
            if any(stage.losses.perceptual_network != "none" for stage in stages):
                assert "omnitok data networks" in block[: found.start()] or "--perceptual-weights" in options
