"""Tables of tiles: lookup, search and files."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass

import pytest
import torch
import typer
from ahead import MAX_SHARED_BYTES, compiled_for, needs_compiler
from typer.testing import CliRunner

from kernels.autotune import table
from kernels.autotune.cli import DTYPE, GRIDS, WIDTHS, Config, merge, tune, tune_all, tuning_spaces
from kernels.autotune.search import LaunchTuner, TuneResult, difference
from kernels.autotune.table import (
    ProblemSize,
    TuningSpace,
    gpu_stem,
    read_table,
    table_entry,
    tuned_tile,
    use_tile,
    write_table,
)
from kernels.runtime import jit
from model.tokenizer.config import CONFIGS, TokenizerConfig

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tile:
    rows: int


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Yield a function that names the present GPU; tables are in a temporary folder."""

    def present(name: str) -> None:
        monkeypatch.setattr(table, "current_gpu", lambda: gpu_stem(name))
        table._lookup.cache_clear()
        table._entries.cache_clear()

    monkeypatch.setattr(table, "CONFIG_DIR", tmp_path)
    yield present
    monkeypatch.undo()
    table._lookup.cache_clear()
    table._entries.cache_clear()


def test_gpu_stems():
    assert gpu_stem("NVIDIA H100 80GB HBM3") == "h100"
    assert gpu_stem("NVIDIA A100-SXM4-80GB") == "a100"
    assert gpu_stem("NVIDIA GeForce RTX 4090") == "4090"
    assert gpu_stem("Unnumbered") == "unnumbered"


def test_the_next_larger_number_of_rows_decides(gpu, tmp_path):
    table = {"op.forward": [table_entry(torch.bfloat16, 100, Tile(1)), table_entry(torch.bfloat16, 1000, Tile(2))]}
    write_table(tmp_path / "h100.json", "NVIDIA H100", {}, table)

    def rows(count: int, dtype: torch.dtype = torch.bfloat16, name: str = "op.forward") -> int:
        return tuned_tile(name, dtype, count, Tile(0)).rows

    gpu("NVIDIA H100 80GB HBM3")
    assert [rows(count) for count in (1, 100, 101, 1000, 10**6)] == [1, 1, 2, 2, 2]
    assert rows(1, torch.float32) == rows(1, name="op.backward") == 0
    gpu("NVIDIA A100-SXM4-80GB")
    assert rows(1) == 0


def test_a_gpu_falls_back_to_the_table_of_one_with_the_same_multiprocessors(gpu, tmp_path):
    write_table(tmp_path / "h100.json", "NVIDIA H100", {}, {"a": [table_entry(DTYPE, 9, Tile(1))], "b": []})

    def found(name: str, dtype: torch.dtype = DTYPE) -> int:
        return tuned_tile(name, dtype, 1, Tile(0)).rows

    gpu("NVIDIA H200")
    assert [found("a"), found("b"), found("c")] == [1, 0, 0]
    write_table(tmp_path / "h200.json", "NVIDIA H200", {}, {name: [table_entry(DTYPE, 9, Tile(2))] for name in "bc"})
    gpu("NVIDIA H200")
    assert [found("a"), found("b"), found("c"), found("c", torch.float32)] == [1, 2, 2, 0]
    gpu("NVIDIA H100 80GB HBM3")
    assert [found("a"), found("b"), found("c")] == [1, 2, 2]


def test_a_table_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "gpu.json", []
    monkeypatch.setattr(table.os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.exists())))
    write_table(path, "A GPU", {}, {})
    assert synced == [(path.stat().st_size, False)]


def test_tables_are_sorted_and_read_back(tmp_path):
    table = {"b": [table_entry(torch.float32, 2, Tile(1)), table_entry(torch.bfloat16, 9, Tile(3))], "a": []}
    path = tmp_path / "new" / "gpu.json"
    write_table(path, "A GPU", {"torch": "2"}, table)
    assert read_table(path) == {"a": [], "b": table["b"][::-1]}
    assert list(path.parent.iterdir()) == [path]


def test_neighbours_with_equal_tiles_become_one_entry():
    found = [TuneResult(torch.bfloat16, rows, Tile(tile), 2.0, 1.0) for rows, tile in ((1, 7), (4, 7), (8, 9), (16, 7))]
    table = {"other": [], "op": [table_entry(torch.bfloat16, 3, Tile(1)), table_entry(torch.float32, 3, Tile(1))]}
    merge(table, "op", found)
    assert table["other"] == []
    assert [(line["dtype"], line["rows"], line["tile"]["rows"]) for line in table["op"]] == [
        ("float32", 3, 1), ("bfloat16", 4, 7), ("bfloat16", 8, 9), ("bfloat16", 16, 7),
    ]  # fmt: skip


def draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[int, int] | None:
    """Draw nothing for clips."""
    return (size.rows, size.width) if size.frames == 1 else None


def launch(rows: int, width: int) -> torch.Tensor:
    """Run with a tile: 0 is the default, 13 cannot run, 14 computes something else on odd grids only."""
    tile = tuned_tile("op", DTYPE, rows, Tile(0))
    if tile.rows == 13:
        raise RuntimeError("too many registers\nand more")
    out = torch.arange(10.0)
    out[0] = tile.rows / 1e6
    if tile.rows == 14 and width % 8:
        out[-1] = math.nan
    return out


def tile_of(calls) -> int:
    """Return the tile with which a call runs."""
    return round(calls[0]()[0][0].item() * 1e6)


def make_tuner(logged: list[str], times: dict[int, float], draw=draw) -> LaunchTuner:
    """Return a tuner whose clock reads from `times`; tile 15 fails when it is timed."""

    def clock(calls) -> float:
        if (tile := tile_of(calls)) == 15:
            raise RuntimeError("out of memory")
        return times[tile]

    candidates = tuple(Tile(rows) for rows in (13, 14, 15, 0, 1, 1))
    return LaunchTuner(TuningSpace("op", candidates, draw, launch), logged.append, clock)


@pytest.mark.parametrize(("faster", "winner"), [(1.0, 1), (4.96, 0), (6.0, 0)])
def test_the_fastest_correct_tile_wins_if_the_gain_exceeds_noise(faster, winner):
    logged, saved, steps = [], {}, []
    tuner = make_tuner(logged, {0: 5.0, 1: faster, 14: 0.1})
    tune_all([tuner], Config.published, CPU, None, steps.append, saved.__setitem__)
    assert {result.tile.rows for result in saved["op"]} == {winner}
    assert len(steps) == len(GRIDS)
    assert [result.rows for result in saved["op"]] == [1024, 4096, 16_384, 65_536]  # of images
    assert [line.split(": ")[1] for line in logged] == [f"skipped Tile(rows={rows})" for rows in (13, 14, 15)]
    assert "too many registers" in logged[0]
    assert "and more" not in logged[0]


def test_a_tile_must_be_faster_twice():
    times = {0: iter((5.0, 3.0)), 1: iter((4.0, 3.0))}
    tuner = LaunchTuner(TuningSpace("op", (Tile(1),), draw, launch), print, lambda calls: next(times[tile_of(calls)]))
    result = tuner.tune(ProblemSize(1, 1, 8, 8), DTYPE, CPU)
    assert (result.tile, result.default_us, result.best_us) == (Tile(0), 3.0, 3.0)


def test_unfinished_launches_are_not_saved():
    logged, saved = [], {}
    tuner = make_tuner(logged, {0: 5.0, 1: 1.0, 14: 0.1})
    tune_all([tuner], Config.demo, CPU, time.monotonic() - 1, lambda name: None, saved.__setitem__)
    assert saved == {}

    def broken(size, dtype, device):
        raise RuntimeError("no memory")

    tune_all([make_tuner(logged, {}, broken), tuner], Config.demo, CPU, None, lambda name: None, saved.__setitem__)
    assert "op keeps its tiles: RuntimeError: no memory" in logged
    assert list(saved) == ["op"]


def test_difference_reports_errors_beyond_the_tolerance():
    x = torch.randn(1000)
    assert difference([x], [x]) is None
    assert difference([x + 1e-4], [x]) is None
    assert difference([torch.zeros(3)], [torch.zeros(3)]) is None
    assert "root mean square" in difference([x * 1.02], [x])
    one = x.clone()
    one[7] += 0.1 * x.abs().max()
    assert difference([one], [x]) is not None
    one[7] = math.nan
    assert difference([one], [x]) is not None
    assert "indices differ" in difference([torch.arange(9)], [torch.arange(9).flip(0)])
    assert "instead of" in difference([x.half()], [x])


def test_every_launch_has_one_tuning_space_and_tables_hold_its_tiles():
    spaces = {space.name: space for space in tuning_spaces()}
    assert len(spaces) == len(tuning_spaces())
    paths = list(table.CONFIG_DIR.glob("*.json"))
    assert paths
    for path in paths:
        assert set(read_table(path)) <= set(spaces)
        for name, entries in read_table(path).items():
            kind = type(spaces[name].candidates[0])
            assert [kind(**line["tile"]) for line in entries]
            assert len({(line["dtype"], line["rows"]) for line in entries}) == len(entries)


@needs_compiler
def test_calls_launch_and_shipped_tiles_compile():
    shipped: dict[str, list] = {}
    for path in table.CONFIG_DIR.glob("*.json"):
        for name, lines in read_table(path).items():
            shipped.setdefault(name, []).extend(lines)
    jit.count_compilations()
    before, looked_up = jit.compilation_count(), set()
    with compiled_for(90) as compiled:
        for space in tuning_spaces():
            tiles = {type(space.candidates[0])(**line["tile"]) for line in shipped.get(space.name, [])}
            draws = [space.draw(ProblemSize(1, frames, 2, 4), DTYPE, CPU) for frames in (1, 2)]
            for tile in tiles or {None}:
                for args in filter(None, draws):
                    with use_tile(space.name, tile) as lookups:
                        space.launch(*args)
                    looked_up.update({space.name} if lookups else {})
    assert looked_up == {space.name for space in tuning_spaces()}
    assert len(compiled) >= len(tuning_spaces())
    assert all(kernel.metadata.shared <= MAX_SHARED_BYTES[90] for kernel in compiled)
    assert 0 < jit.compilation_count() - before <= len(compiled)


@pytest.mark.parametrize(("config", "widths"), WIDTHS.items())
def test_widths_match_the_configs(config, widths):
    if config == Config.demo:
        raw = json.loads((table.CONFIG_DIR.parents[2] / "bundles/demo-vq/config.json").read_text())["tokenizer"]
        network = TokenizerConfig.from_dict(raw)
    else:
        network = next(network for network in CONFIGS.values() if network.width == 512)
    assert (widths["channels"], widths["heads"]) == (network.width, network.heads)
    assert widths["hidden"] == -(-network.feed_forward // 64) * 64


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tuning_without_a_gpu_is_an_error():
    app = typer.Typer()
    app.command()(tune)
    result = CliRunner().invoke(app)
    assert result.exit_code == 1
    assert "this machine has none" in result.output
