"""Tables of tiles: how they are looked up, searched and written."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass

import pytest
import torch
from ahead import MOST_SHARED, compiled_for
from typer.testing import CliRunner

from kernels.autotune import table
from kernels.autotune.cli import DTYPE, WIDTHS, Config, hold_all, merge, searches
from kernels.autotune.search import Contest, Outcome, difference
from kernels.autotune.table import Search, Size, Trial, entry, gpu_stem, read_table, tuned, write_table
from kernels.runtime import jit
from model import CONFIGS
from model.tokenizer.config import TokenizerConfig
from service.cli.app import app

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tile:
    rows: int


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Tables in a folder of their own, for a GPU whose name can be given."""

    def present(name: str) -> None:
        monkeypatch.setattr(table, "present_gpu", lambda: gpu_stem(name))
        table._chosen.cache_clear()
        table._recorded.cache_clear()

    monkeypatch.setattr(table, "FOLDER", tmp_path)
    yield present
    monkeypatch.undo()
    table._chosen.cache_clear()
    table._recorded.cache_clear()


def test_names_of_gpus():
    assert gpu_stem("NVIDIA H100 80GB HBM3") == "h100"
    assert gpu_stem("NVIDIA A100-SXM4-80GB") == "a100"
    assert gpu_stem("NVIDIA GeForce RTX 4090") == "4090"
    assert gpu_stem("Unnumbered") == "unnumbered"


def test_the_next_larger_number_of_rows_decides(gpu, tmp_path):
    table = {"op.forward": [entry(torch.bfloat16, 100, Tile(1)), entry(torch.bfloat16, 1000, Tile(2))]}
    write_table(tmp_path / "h100.json", "NVIDIA H100", {}, table)

    def rows(count: int, dtype: torch.dtype = torch.bfloat16, name: str = "op.forward") -> int:
        return tuned(name, dtype, count, Tile(0)).rows

    gpu("NVIDIA H100 80GB HBM3")
    assert [rows(count) for count in (1, 100, 101, 1000, 10**6)] == [1, 1, 2, 2, 2]
    assert rows(1, torch.float32) == rows(1, name="op.backward") == 0
    gpu("NVIDIA A100-SXM4-80GB")
    assert rows(1) == 0


def test_a_gpu_of_the_same_kind_knows_what_its_own_table_does_not(gpu, tmp_path):
    write_table(tmp_path / "h100.json", "NVIDIA H100", {}, {"a": [entry(DTYPE, 9, Tile(1))], "b": []})

    def found(name: str, dtype: torch.dtype = DTYPE) -> int:
        return tuned(name, dtype, 1, Tile(0)).rows

    gpu("NVIDIA H200")
    assert [found("a"), found("b"), found("c")] == [1, 0, 0]
    write_table(tmp_path / "h200.json", "NVIDIA H200", {}, {name: [entry(DTYPE, 9, Tile(2))] for name in "bc"})
    gpu("NVIDIA H200")
    assert [found("a"), found("b"), found("c"), found("c", torch.float32)] == [1, 2, 2, 0]
    gpu("NVIDIA H100 80GB HBM3")
    assert [found("a"), found("b"), found("c")] == [1, 2, 2]


def test_tables_are_sorted_and_read_back(tmp_path):
    table = {"b": [entry(torch.float32, 2, Tile(1)), entry(torch.bfloat16, 9, Tile(3))], "a": []}
    path = tmp_path / "new" / "gpu.json"
    write_table(path, "A GPU", {"torch": "2"}, table)
    assert read_table(path) == {"a": [], "b": table["b"][::-1]}
    assert list(path.parent.iterdir()) == [path]


def test_neighbours_that_agree_are_one_entry():
    found = [Outcome(torch.bfloat16, rows, Tile(tile), 2.0, 1.0) for rows, tile in ((1, 7), (4, 7), (8, 9), (16, 7))]
    table = {"other": [], "op": [entry(torch.bfloat16, 3, Tile(1)), entry(torch.float32, 3, Tile(1))]}
    merge(table, "op", found)
    assert table["other"] == []
    assert [(line["dtype"], line["rows"], line["tile"]["rows"]) for line in table["op"]] == [
        ("float32", 3, 1), ("bfloat16", 4, 7), ("bfloat16", 8, 9), ("bfloat16", 16, 7),
    ]  # fmt: skip


def played(size: Size, dtype: torch.dtype, device: torch.device) -> Trial[Tile]:
    """Tile 0 is the default, 13 cannot run, 14 computes something else on odd grids only."""

    def run(tile: Tile) -> torch.Tensor:
        if tile.rows == 13:
            raise RuntimeError("too many registers\nand more")
        out = torch.arange(10.0)
        if tile.rows == 14 and size.width % 8:
            out[-1] = math.nan
        run.last = tile
        return out

    return Trial(dtype, size.rows, Tile(0), run)


def contest(told: list[str], times: dict[int, float], make=played) -> Contest:
    """Whose clock reads from a table; 15 fails when it is timed."""

    def clock(calls) -> float:
        calls[0]()
        tile = calls[0].__closure__[0].cell_contents.rows
        if tile == 15:
            raise RuntimeError("out of memory")
        return times[tile]

    return Contest(Search("op", tuple(Tile(rows) for rows in (13, 14, 15, 0, 1, 1)), make), told.append, clock)


@pytest.mark.parametrize(("faster", "winner"), [(1.0, 1), (4.96, 0), (6.0, 0)])
def test_the_fastest_that_is_right_wins_where_it_is_worth_it(faster, winner):
    told, kept, steps = [], {}, []
    held = contest(told, {0: 5.0, 1: faster, 14: 0.1})
    hold_all([held], Config.published, CPU, None, steps.append, kept.__setitem__)
    assert {outcome.tile.rows for outcome in kept["op"]} == {winner}
    assert len(steps) == len(kept["op"]) == len({outcome.rows for outcome in kept["op"]})
    assert [line.split(" is left out: ")[0] for line in told] == [f"op: Tile(rows={rows})" for rows in (13, 14, 15)]
    assert "too many registers" in told[0]
    assert "and more" not in told[0]


def test_a_tile_must_be_faster_twice():
    times = {0: iter((5.0, 3.0)), 1: iter((4.0, 3.0))}
    search = Search("op", (Tile(1),), lambda *_: Trial(DTYPE, 1, Tile(0), lambda tile: torch.tensor(tile.rows)))
    lucky = Contest(search, print, lambda calls: next(times[calls[0].__closure__[0].cell_contents.rows]))
    lucky._eligible = lambda trial: [Tile(0), Tile(1)]
    outcome = lucky.hold(Size(1, 1, 8, 8), DTYPE, CPU)
    assert (outcome.tile, outcome.before, outcome.after) == (Tile(0), 3.0, 3.0)


def test_what_is_not_through_is_not_kept():
    told, kept = [], {}
    held = contest(told, {0: 5.0, 1: 1.0, 14: 0.1})
    hold_all([held], Config.demo, CPU, time.monotonic() - 1, lambda name: None, kept.__setitem__)
    assert kept == {}

    def broken(size, dtype, device):
        raise RuntimeError("no memory")

    hold_all([contest(told, {}, broken), held], Config.demo, CPU, None, lambda name: None, kept.__setitem__)
    assert "op is left as it was: RuntimeError: no memory" in told
    assert list(kept) == ["op"]


def test_differences():
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
    assert "others" in difference([torch.arange(9)], [torch.arange(9).flip(0)])
    assert "instead of" in difference([x.half()], [x])


def test_every_launch_is_searched_once_and_tables_hold_tiles_of_theirs():
    found = {search.name: search for search in searches()}
    assert len(found) == len(searches())
    for path in table.FOLDER.glob("*.json"):
        assert set(read_table(path)) <= set(found)
        for name, entries in read_table(path).items():
            kind = type(found[name].candidates[0])
            assert [kind(**line["tile"]) for line in entries]
            assert len({(line["dtype"], line["rows"]) for line in entries}) == len(entries)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter takes the compiler's place")
def test_trials_launch_and_shipped_tiles_compile(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shipped: dict[str, list] = {}
    for path in table.FOLDER.glob("*.json"):
        for name, lines in read_table(path).items():
            shipped.setdefault(name, []).extend(lines)
    jit.watch()
    before = jit.count()
    with compiled_for(90) as compiled:
        for search in searches():
            trials = [search.make(Size(1, frames, 2, 4), DTYPE, CPU) for frames in (1, 2)]
            trial = next(trial for trial in trials if trial is not None)
            kind = type(trial.default)
            tiles = {kind(**line["tile"]) for line in shipped.get(search.name, [])}
            for tile in tiles or {trial.default}:
                trial.run(tile)
    assert len(compiled) >= len(searches())
    assert all(kernel.metadata.shared <= MOST_SHARED[90] for kernel in compiled)
    assert 0 < jit.count() - before <= len(compiled)


@pytest.mark.parametrize(("config", "widths"), WIDTHS.items())
def test_widths_are_those_of_the_networks(config, widths):
    if config == Config.demo:
        raw = json.loads((table.FOLDER.parents[2] / "bundles/demo-vq/config.json").read_text())["tokenizer"]
        network = TokenizerConfig.from_dict(raw)
    else:
        network = next(network for network in CONFIGS.values() if network.width == 512)
    assert (widths["channels"], widths["heads"]) == (network.width, network.heads)
    assert widths["hidden"] == -(-network.feed_forward // 64) * 64


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    result = CliRunner().invoke(app, ["tune"])
    assert result.exit_code == 1
    assert "this machine has none" in result.output
