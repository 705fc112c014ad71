"""The ablations in small: equal budgets, runs that go on where they stopped, and tables that the documents show."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.ablations import variants as variants_module
from benchmarks.ablations.__main__ import app
from benchmarks.ablations.held_out import HELD_OUT, load
from benchmarks.ablations.runner import RECORD_FILE, Job, gather, is_done, read_json, run_all
from benchmarks.ablations.tables import TABLES, markdown
from benchmarks.ablations.variants import batches, tokens, variants
from training.data.shards import SetInfo, open_set, write_info, write_shard
from training.errors import TrainingError
from training.recipes import Recipe

DOCS = Path(__file__).parents[1] / "docs"
QUIET = Console(quiet=True)
SETS = {
    "train/photographs": (1, 96, 3),
    "train/clips": (17, 96, 3),
    "held-out/photographs-128": (1, 128, 2),
    "held-out/procgen-128": (17, 128, 2),
    "held-out/camera-128": (17, 128, 2),
}


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """Sets of flat colours that drift, of the sizes that the recipe draws."""
    random = np.random.default_rng(0)
    for name, (frames, size, count) in SETS.items():
        first, drift = random.integers(40, 200, (count, 1, 1, 1, 3)), random.integers(-2, 3, (count, 1, 1, 1, 3))
        pixels = first + drift * np.arange(frames).reshape(1, -1, 1, 1, 1) + np.zeros((1, 1, size, size, 1), int)
        folder = tmp_path / "data" / name
        write_info(folder, SetInfo(folder.name, frames, size, size, (), "drawn"))
        write_shard(folder, 0, pixels.astype(np.uint8))
    return tmp_path / "data"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of few items."""
    monkeypatch.setattr(variants_module, "IMAGES", 4)
    monkeypatch.setattr(variants_module, "CLIPS", 1)


def job(name: str, steps: int, data: Path, deadline: float = float("inf")) -> Job:
    return Job(name, 0, steps, data, data / "no networks", data.parent / "runs", "cpu", deadline)


def shape_of(recipe: Recipe) -> str:
    return json.dumps(recipe.to_dict() | {"seed": None}, sort_keys=True)


def test_no_two_variants_are_one_training() -> None:
    listed = variants()
    assert len({shape_of(variant.recipe) for variant in listed.values()}) == len(listed)
    for first, second in itertools.permutations(listed.values(), 2):
        shared = len(second.recipe.stages)
        if first.recipe.tokenizer == second.recipe.tokenizer:
            assert first.recipe.stages[:shared] != second.recipe.stages  # it would be the beginning of the other


def test_variants_of_a_kind_have_equal_budgets() -> None:
    for variant in variants(40).values():
        drawn = list(batches(variant.recipe))
        third = len(variant.recipe.stages) == 3
        assert len(drawn) == (60 if third else 40)
        for draw in drawn:
            assert tokens(variant.recipe, draw) == pytest.approx(5120, rel=0.02)


def test_every_row_names_a_bundle_that_is_measured() -> None:
    listed = variants()
    for table in TABLES:
        for row in table.rows:
            assert row.stage in listed[row.variant].shown
            assert len(row.paper) == len(table.paper_columns)
        assert {held_out for held_out, _ in table.columns} <= {held_out.name for held_out in HELD_OUT}


def test_steps_that_two_stages_cannot_share_are_refused() -> None:
    with pytest.raises(TrainingError, match="steps=5 must be an even number"):
        variants(5)


def test_held_out_sets_are_averages_of_blocks(small_data: Path) -> None:
    random = np.random.default_rng(1)
    folder = small_data / "held-out/photographs-128"
    pixels = random.integers(0, 256, (2, 1, 128, 128, 3), np.uint8)
    write_shard(folder, 0, pixels)
    [batch] = load(HELD_OUT[0], small_data).batches()
    mean = pixels.reshape(2, 1, 64, 2, 64, 2, 3).mean(axis=(3, 5))
    np.testing.assert_array_equal(batch, np.floor(mean + 0.5))
    [whole] = load(HELD_OUT[1], small_data).batches()
    np.testing.assert_array_equal(whole, open_set(folder).pixels().numpy())


@pytest.mark.usefixtures("tiny")
def test_from_training_to_table(small_data: Path) -> None:
    jobs = [job(name, 2, small_data) for name in ("joint-multi", "video-fix")]
    assert run_all(jobs, 1, QUIET)
    out = small_data.parent / "runs"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert run_all(jobs, 1, QUIET)  # what is done is not repeated
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match="other settings or steps"):
        is_done(job("joint-multi", 4, small_data))

    joint, video = gather(out)["runs"]
    everywhere = {held_out.name for held_out in HELD_OUT}
    assert {stage: set(sets) for stage, sets in joint["figures"].items()} == {"joint": everywhere, "kl": everywhere}
    assert set(video["figures"]["video"]) == {"games-64", "camera-64"}
    assert set(joint["final_loss"]["joint"]) <= {"images", "clips"}
    assert joint["figures"]["joint"]["games-64"]["items"] == 2
    assert (joint["steps"], video["steps"]) == (3, 2)
    row = next(line for line in markdown(TABLES[0], [joint, video]).splitlines() if line.startswith("| Video (Fix) |"))
    assert f"{video['figures']['video']['games-64']['PSNR']:.2f}" in row


@pytest.mark.usefixtures("tiny")
def test_a_run_that_is_stopped_goes_on(small_data: Path) -> None:
    late = [job(name, 4, small_data, deadline=0.0) for name in ("image-fix", "video-fix")]
    for parallel in (1, 2):
        assert not run_all(late, parallel, QUIET)
    assert not any((one.folder / RECORD_FILE).exists() for one in late)
    with pytest.raises(TrainingError, match="parallel=0"):
        run_all(late, 0, QUIET)
    assert run_all([job("image-fix", 4, small_data)], 1, QUIET)


def test_the_documents_show_what_the_command_prints() -> None:
    answer = CliRunner().invoke(app, ["table", "--figures", str(DOCS / "reproduction.json")])
    printed = [line for line in answer.stdout.splitlines() if line.startswith("|")]
    assert len(printed) > 20
    assert set(printed) <= set((DOCS / "reproduction.md").read_text().splitlines())


def test_files_that_hold_no_figures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    for text in ("", "[]", json.dumps({"format": "other", "runs": []})):
        path.write_text(text)
        with pytest.raises(TrainingError, match=r"figures\.json"):
            read_json(path)
    with pytest.raises(TrainingError, match="no run that is done"):
        gather(tmp_path)


def test_the_command_names_what_it_does_not_know(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["run", "--only", "table-11", "--out", str(tmp_path)])
    assert answer.exit_code == 1
    assert "image-fix-plain" in answer.stderr
