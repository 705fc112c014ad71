"""The ablations in small: equal budgets, one run for what coincides, and a report that says what the figures say."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from training.__main__ import app
from training.data.shards import SetInfo, write_info, write_shard
from training.errors import TrainingError
from training.recipes import Recipe
from training.reproduction import variants as variants_module
from training.reproduction.measure import HELD_OUT, gather, measure_all, measurements
from training.reproduction.paper import ABLATIONS, CLAIMS, TRIED, Entry
from training.reproduction.process_pool import share
from training.reproduction.report import write_report
from training.reproduction.results import Results, read_results
from training.reproduction.run import FORMAT, RECORD_FILE, Job, is_done, run_all
from training.reproduction.significance import LARGER_IS_BETTER, by_chance, join, verdict
from training.reproduction.variants import batches, tokens, variants

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


def test_every_row_and_claim_names_a_bundle_that_is_measured_on_its_kind() -> None:
    listed = variants()
    kinds = {held.name: held.kind for held in HELD_OUT}

    def check(entry: Entry, kind: str | None = None) -> None:
        variant = listed[entry.variant]
        assert entry.stage in variant.shown
        assert kind is None or any(getattr(stage, kind) for stage in variant.recipe.stages)

    for ablation in ABLATIONS:
        for row in ablation.rows:
            check(row.entry)
            assert len(row.paper) == len(ablation.paper_columns)
    for claim in CLAIMS:
        assert all(kinds[held_out] == claim.kind for held_out, _ in TRIED[claim.kind])
        check(claim.first, claim.kind)
        check(claim.second, claim.kind)


def test_the_papers_figures_bear_out_its_claims() -> None:
    for claim in CLAIMS:
        smaller, larger = sorted(claim.paper)
        if claim.relation == "better":
            assert claim.paper[0] < claim.paper[1]
        else:
            assert larger < 1.05 * smaller


def test_steps_that_two_stages_cannot_share_are_refused() -> None:
    with pytest.raises(TrainingError, match="even number from 2, not 5"):
        variants(5)


@pytest.mark.usefixtures("tiny")
def test_from_training_to_report(small_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    jobs = [Job(name, 0, 2, small_data, out, "cpu") for name in ("joint-multi", "video-fix")]
    assert run_all(jobs, 1, QUIET)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert run_all(jobs, 1, QUIET)  # what is done is not repeated
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match="other settings or steps"):
        is_done(Job("joint-multi", 0, 4, small_data, out, "cpu"))

    measure_all(measurements(out, small_data, tmp_path / "none", "cpu"), 1, QUIET)
    results = Results(gather(out))
    everywhere = {held.name for held in HELD_OUT}
    [joint], [video] = results.of("joint-multi"), results.of("video-fix")
    assert {stage: set(sets) for stage, sets in joint["figures"].items()} == {"joint": everywhere, "kl": everywhere}
    assert set(video["figures"]["video"]) == {"games-64", "camera-64"}
    assert set(joint["stages"]["joint"]["final_loss"]) <= {"images", "clips"}
    assert joint["figures"]["joint"]["games-64"]["items"] == 2
    assert (joint["steps"], video["steps"]) == (3, 2)

    page = write_report(results, tmp_path / "docs").read_text()
    assert "too few seeds" in page
    assert all(
        (tmp_path / "docs/images" / f"reproduction-table-{number}.png").stat().st_size for number in (7, 8, 9, 10)
    )


@pytest.mark.usefixtures("tiny")
def test_a_run_that_is_stopped_goes_on(small_data: Path, tmp_path: Path) -> None:
    late = Job("image-fix", 0, 4, small_data, tmp_path / "runs", "cpu", deadline=0.0)
    assert not run_all([late], 1, QUIET)
    assert not (late.folder / RECORD_FILE).exists()
    assert run_all([Job("image-fix", 0, 4, small_data, tmp_path / "runs", "cpu")], 1, QUIET)


def test_jobs_are_shared_among_processes() -> None:
    assert dict(share(abs, [-1, 2, -3], parallel=2)) == {-1: 1, 2: 2, -3: 3}
    with pytest.raises(TrainingError, match="at least one process, not 0"):
        list(share(abs, [1], parallel=0))


def canned(better: float, seeds: int = 2) -> Results:
    """Results in which every bundle has the same figures but for `joint-multi` after KL, which leads by `better`."""
    listed, runs = variants(), []
    for name, variant in listed.items():
        for seed in range(seeds):
            figures: dict[str, Any] = {}
            for stage in variant.shown:
                lead = better if (name, stage) == ("joint-multi", "kl") else 0.0
                values = {"PSNR": 20 + lead + 0.01 * seed, "SSIM": 0.5, "usage": 0.9, "items": 9}
                values |= dict.fromkeys(("FID-lite", "FVD-lite", "VGG distance"), 50 - lead + 0.01 * seed)
                values["half splits"] = {"FID-lite": 12.5}
                figures[stage] = dict.fromkeys((held.name for held in HELD_OUT), values)
            curves = {"images": {"step": [1, 5], "psnr": [10.0, 20.0], "loss": [3.0, 1.0]}}
            stage_record = {"steps": 800, "seconds": 2.0, "final_loss": {"images": 1.0}, "curves": curves}
            stages = {stage.name: stage_record for stage in variant.recipe.stages}
            told = {"steps": 800 * len(stages), "tokens": 1, "seconds": 4.0, "machine": "one", "commit": "abc"}
            shown = {"stages": stages, "shown": list(variant.shown), "figures": figures}
            runs.append({"variant": name, "seed": seed} | told | shown)
    return Results({"format": FORMAT, "preprocessing": ["as pinned"], "runs": runs})


def test_the_report_says_what_the_figures_say(tmp_path: Path) -> None:
    vae_claims = [claim for claim in CLAIMS if claim.first == Entry("joint-multi", "kl")]
    for lead, better, equal in ((5.0, "agrees", "disagrees"), (-5.0, "disagrees", "disagrees")):
        results = canned(lead)
        found = {claim.words: results.verdict(claim) for claim in vae_claims}
        assert set(found.values()) == {better, equal}
        page = write_report(results, tmp_path / "docs").read_text()
        for claim in CLAIMS:
            [line] = [line for line in page.splitlines() if line.startswith(f"| {claim.words[:-1]} |")]
            assert f"**{results.verdict(claim)}**" in line
        assert "55.01" in page or "45.01" in page
    assert canned(0.0).table_verdict(8) == "within seed spread"
    assert canned(0.0).table_verdict(9) == "agrees"


def test_files_that_hold_no_figures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    for text in ("", "[]", json.dumps({"format": FORMAT, "preprocessing": [], "runs": []})):
        path.write_text(text)
        with pytest.raises(TrainingError, match=r"figures\.json"):
            read_results(path)
    with pytest.raises(TrainingError, match="no run that is done"):
        measurements(tmp_path, tmp_path, tmp_path)


def test_the_command_names_what_it_does_not_know(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["reproduce", "train", "--only", "table-11", "--out", str(tmp_path)])
    assert answer.exit_code == 1
    assert "image-fix-plain" in answer.stderr


scores = st.lists(st.floats(1, 100), min_size=2, max_size=4)


@given(scores, scores, st.sampled_from(["PSNR", "FID-lite"]))
def test_the_rule_is_fair(first: list[float], second: list[float], figure: str) -> None:
    """Exchanging the two exchanges agreement and disagreement; turning a figure round does as well."""
    opposite = {"agrees": "disagrees", "disagrees": "agrees"}
    found = verdict(first, second, figure, "better")
    assert verdict(second, first, figure, "better") == opposite.get(found, found)
    turned = "FID-lite" if figure in LARGER_IS_BETTER else "PSNR"
    assert verdict(first, second, turned, "better") == opposite.get(found, found)
    assert verdict(first, second, figure, "equal") == verdict(second, first, figure, "equal")


@given(scores)
def test_a_training_equals_itself(values: list[float]) -> None:
    assert verdict(values, values, "PSNR", "equal") == "agrees"
    assert verdict(values, values, "PSNR", "better") == "within seed spread"


def test_the_rule_by_example() -> None:
    assert verdict([24.0, 24.2], [23.0, 23.9], "PSNR", "better") == "agrees"
    assert verdict([24.0, 24.2], [23.0, 24.1], "PSNR", "better") == "within seed spread"
    assert verdict([24.0, 24.2], [23.0, 23.9], "FID-lite", "better") == "disagrees"
    assert verdict([24.0, 24.2], [23.9, 24.3], "PSNR", "equal") == "agrees"
    assert verdict([25.0, 25.2], [23.9, 24.3], "PSNR", "equal") == "disagrees"
    assert verdict([23.0, 25.2], [23.9, 26.3], "PSNR", "equal") == "within seed spread"
    assert verdict([24.0], [23.0], "PSNR", "better") == "too few seeds"
    assert join(["agrees", "agrees", "within seed spread"]) == "agrees"
    assert join(["agrees", "within seed spread"]) == "within seed spread"  # half may be chance
    assert join(["disagrees"]) == "disagrees"
    assert join(["agrees", "disagrees"]) == join(["mixed", "agrees"]) == "mixed"
    assert join([]) == "too few seeds"


def test_ranges_lie_apart_by_chance_as_often_as_is_said() -> None:
    for seeds in (2, 3):
        orders = list(itertools.permutations(range(2 * seeds)))
        apart = sum(max(x[:seeds]) < min(x[seeds:]) or min(x[:seeds]) > max(x[seeds:]) for x in orders)
        assert by_chance(seeds) == pytest.approx(apart / len(orders))
