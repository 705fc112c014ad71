"""`python -m benchmarks.kernels.decode_step FOLDER`: check and time the whole-step kernel against the decode engine's.

Each part runs in a process of its own under a deadline: checks of a small and of the full model, one tile after
another, then a whole generation by the first tile. Lines come as parts end; FOLDER/decode_step.json holds them all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.generation_decode import MODEL, SAMPLING
from benchmarks.measure import describe_machine, measure_ceilings
from kernels.autotune.search import graph_times
from kernels.decode_step import StepProduct, launch, make_state, pack, reference
from kernels.decode_step.launch import Tile
from kernels.decode_step.reference import StepArgs
from kernels.runtime.jit import compile_all
from model.generator.config import LANGUAGE_MODELS, LanguageModelConfig
from model.generator.kv_cache import KVCache
from model.generator.lm import LanguageModel
from model.inference.decoder import Decoder, Sequence
from model.inference.language_model import PackedLanguageModel

DEVICE = "cuda"
LENGTH = 513  # the mean of an image of 1,024 codes
STEPS = 8  # of one graph
REPEATS = 20  # of a check; results must be equal bit by bit
PART_SECONDS = 50.0  # of a check or a tile, with the start of its process
GENERATION_SECONDS = 60.0
MAX_ERROR = 0.03  # norm of the difference from float64, of bfloat16 logits
MAX_WORSE = 1.15  # times the error of the engine's step
SMALL = replace(LANGUAGE_MODELS[MODEL], layers=3, width=512, heads=4, codes=500, positions=300, grid=(1, 16, 16))
FULL = LANGUAGE_MODELS[MODEL]

TILES: dict[str, Tile] = {
    "8 warps, 8 stages": Tile(8, 8),
    "8 warps, 8 stages, no wait (wrong)": Tile(8, 8, polls=0),  # time without barriers of the grid
    "4 warps, 16 stages": Tile(4, 16),
    "8 warps, 6 stages": Tile(8, 6),
    "8 warps, 4 stages": Tile(8, 4),
    "8 warps, 2 stages": Tile(8, 2),
    "4 warps, 16 stages, no wait (wrong)": Tile(4, 16, polls=0),
    "4 warps, 8 stages": Tile(4, 8),
    "8 warps, 8 stages, 2 splits": Tile(8, 8, splits=2),
    "8 warps, 8 stages, not cooperative": Tile(8, 8, cooperative=False),
}


class Model:
    """A random model with weights for both steps, and a random cache for each.

    Args:
        config: of the model.
        slots: of the caches.
    """

    def __init__(self, config: LanguageModelConfig, slots: int = 3) -> None:
        torch.manual_seed(0)
        with torch.device(DEVICE):
            model = LanguageModel(config).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # zeros and ones hide a wrong place
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "blocks" in name:
                parameter.mul_(2.0)
        self.config, self.device = config, torch.device(DEVICE)
        self.module = model
        self.network = PackedLanguageModel(model, self.device, torch.bfloat16)
        self.weights, self.biases = packed(self.network)
        self.cache = self.network.make_cache(slots)
        self.cache.data.normal_()
        self.state = make_state(self.device)

    def args(self, lengths: tuple[int, ...], cache: Tensor, seed: int = 1) -> StepArgs:
        """Return the arguments of a step of rows of these lengths."""
        generator = torch.Generator(DEVICE).manual_seed(seed)
        x = torch.randn(len(lengths), self.config.width, generator=generator, device=self.device).bfloat16()
        counts = torch.tensor(lengths, dtype=torch.int32, device=self.device)
        slots = torch.arange(len(lengths), dtype=torch.int32, device=self.device).flip(0)
        return StepArgs(x, self.weights, self.biases, cache, slots, counts, self.config.vocabulary, self.state)

    def copy(self) -> KVCache:
        """Return a copy of the cache."""
        cache = self.network.make_cache(self.cache.slots)
        cache.data.copy_(self.cache.data)
        return cache

    def today(self, args: StepArgs, cache: KVCache) -> Tensor:
        """Run the engine's step of today."""
        return self.network.step(args.x, cache, args.slots, args.lengths)

    def compile(self) -> None:
        """Compile the kernels of today's steps, all at once."""
        cache = self.copy()
        with compile_all():
            for rows in (1, 2):
                self.today(self.args((1,) * rows, cache.data), cache)

    def bytes(self, rows: int) -> int:
        """Return the bytes that a step at LENGTH needs."""
        return self.weights.nbytes + rows * 2 * self.config.layers * self.config.width * LENGTH * 2


def packed(network: PackedLanguageModel) -> tuple[Tensor, Tensor]:
    """Return a network's weights as the kernel takes them."""
    products = [product for layer in network.layers for product in layer] + [network.head]
    return pack([StepProduct(product.weight, product.bias) for product in products], network.config.width)


def error(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference over that of the wanted values; NaN never passes a bound."""
    return float((found.double() - wanted).norm() / wanted.norm())


def unwritten(args: StepArgs, cache: Tensor) -> Tensor:
    """Return a copy of a cache with zeros in the cells that a step writes."""
    kept = cache.clone()
    for slot, length in zip(args.slots.tolist(), args.lengths.tolist(), strict=True):
        if length:
            kept[:, :, slot, :, length - 1] = 0
    return kept


def check(model: Model, lengths: tuple[int, ...], tile: Tile | None = None) -> dict[str, Any]:
    """Compare a step with float64 and with today's step; repeats must have equal bits."""
    exact = model.cache.data.double()
    wide = model.args(lengths, exact)
    wanted = reference.decode_step(
        wide._replace(x=wide.x.double(), weights=wide.weights.double(), biases=wide.biases.double())
    )
    other = model.copy()
    today = model.today(model.args(lengths, other.data), other)
    cache = model.copy()
    args = model.args(lengths, cache.data)
    model.state.fill_(0)
    found = launch.decode_step(args, tile)
    torch.cuda.synchronize()
    equal = all(torch.equal(found, launch.decode_step(args, tile)) for _ in range(REPEATS))
    live = args.lengths > 0
    result: dict[str, Any] = {
        "lengths": lengths,
        "error": error(found[live], wanted[live]),
        "today's error": error(today[live], wanted[live]),
        "error of the cache": error(cache.data, exact),
        "other cells unchanged": torch.equal(unwritten(args, cache.data), unwritten(args, model.cache.data)),
        "equal bits": equal,
        "gave up waiting": bool(model.state[0]),
    }
    bound = min(MAX_ERROR, max(MAX_WORSE * result["today's error"], 0.005))
    near = result["error"] <= bound and result["error of the cache"] <= MAX_ERROR
    result["passed"] = near and equal and result["other cells unchanged"] and not result["gave up waiting"]
    return result


def checks(config: LanguageModelConfig, cases: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    """Run the checks of a model; print each as it comes."""
    model, found = Model(config), []
    model.compile()
    for lengths in cases:
        found.append(check(model, lengths))
        print(f"  {json.dumps(found[-1])}", flush=True)
    return {"passed": all(item["passed"] for item in found), "checks": found}


def milliseconds(model: Model, rows: int, tile: Tile | None) -> float:
    """Return the median time of a step of today or of a tile, in a graph of several steps."""
    cache = model.copy()
    args = model.args((LENGTH,) * rows, cache.data)

    def call() -> Tensor:
        return model.today(args, cache) if tile is None else launch.decode_step(args, tile)

    times = graph_times([call] * STEPS)
    return times[len(times) // 2] / 1e3


def timed(tile: Tile | None) -> dict[str, Any]:
    """Time steps of one and two rows; a tile that waits is checked first."""
    model = Model(FULL)
    model.compile()
    result: dict[str, Any] = {"passed": True}
    if tile is None:
        ceilings = measure_ceilings()
        result["copy"] = ceilings.copy
        print(f"  {describe_machine()}\n  {ceilings}", flush=True)
    elif tile.polls:
        result |= check(model, (LENGTH, LENGTH - 1), tile)
    for rows in (2, 1):
        result[f"ms, {rows} rows"] = milliseconds(model, rows, tile)
        result[f"bytes, {rows} rows"] = model.bytes(rows)
    if tile is not None and tile.polls:
        result["passed"] &= not bool(model.state[0])
    return result


def generation(tile: Tile | None) -> dict[str, Any]:
    """Time the codes of guided images of 1,024 codes, by today's step or by a tile."""
    model = Model(FULL)
    config, length = FULL, FULL.grid[1] * FULL.grid[2]
    decoder = Decoder(model.module, 2, DEVICE, min_rows=2)
    if tile is not None:
        weights, biases = packed(decoder.network)

        def step(x: Tensor, cache: KVCache, slots: Tensor, lengths: Tensor) -> Tensor:
            args = StepArgs(x, weights, biases, cache.data, slots, lengths, config.vocabulary, model.state)
            return launch.decode_step(args, tile)

        rows = torch.zeros(2, dtype=torch.int32, device=DEVICE)
        step(torch.zeros(2, config.width, dtype=torch.bfloat16, device=DEVICE), decoder.cache, rows, rows)  # compiles
        decoder.network.step = step  # type: ignore[method-assign]
    decoder.warm_up()
    seconds, codes = [], torch.empty(0)
    for _ in range(4):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        prefixes = config.prefix_ids(7), config.unconditional_prefix_ids()
        handle = decoder.join(Sequence(prefixes[0], length, replace(SAMPLING, seed=1), prefixes[1]))
        while not decoder.finished(handle):
            decoder.step()
        before, codes = codes, decoder.read(handle)
        seconds.append(time.perf_counter() - begin)
        decoder.leave(handle)
    gave_up = bool(model.state[0])
    return {
        "passed": not gave_up and torch.equal(before, codes),
        "seconds": seconds,
        "ms a step": 1e3 * min(seconds[1:]) / length,
        "equal codes of equal seeds": torch.equal(before, codes),
        "gave up waiting": gave_up,
        "codes": codes.tolist(),
    }


def run_part(name: str, tile: Tile | None) -> dict[str, Any]:
    """Run one part in this process."""
    with torch.inference_mode():
        if name == "small":
            cases = ((1,), (300,), (33, 64), (300, 299), (1, 0), (129, 2))
            return checks(SMALL, cases)
        if name == "full":
            return checks(FULL, ((LENGTH, LENGTH - 1), (1025, 1024), (2, 1), (700,)))
        return generation(tile) if name == "generation" else timed(tile)


def start(name: str, tile: Tile | None, folder: Path, seconds: float) -> dict[str, Any]:
    """Run one part in a process of its own; a part that fails or hangs is killed and has failed."""
    path = folder / "part.json"
    path.unlink(missing_ok=True)
    call = [sys.executable, "-m", "benchmarks.kernels.decode_step", str(folder), "--part", name]
    if tile is not None:
        call += ["--tile", json.dumps(asdict(tile))]
    began = time.monotonic()
    try:
        ended = f"exit status {subprocess.run(call, timeout=max(1.0, seconds)).returncode}"
    except subprocess.TimeoutExpired:
        ended = f"killed after {seconds:.0f} s"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"passed": False}
    return found | {"ended": ended, "took": round(time.monotonic() - began, 1)}


def line(name: str, found: dict[str, Any], copy: float) -> str:
    """Return one line of the table."""
    parts = [f"{name:38s} {'ok' if found['passed'] else 'FAILED'} ({found['ended']}, {found['took']} s)"]
    for rows in (2, 1):
        if (ms := found.get(f"ms, {rows} rows")) is not None:
            rate = found[f"bytes, {rows} rows"] / ms * 1e3
            parts.append(f"{rows} rows: {ms:.4f} ms, {rate / 1e12:.2f} TB/s, {rate / copy:.0%} of floor")
    if "seconds" in found:
        parts.append(f"{min(found['seconds'][1:]):.4f} s to codes, {found['ms a step']:.4f} ms a step")
    if "error" in found:
        parts.append("error {error:.2%}, today's {today's error:.2%}".format(**found))
    return "; ".join(parts)


def main() -> None:
    """Run the parts in order until time is up; the exit status is 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=280.0, help="in all")
    parser.add_argument("--part", help="run one part only, in this process")
    parser.add_argument("--tile", type=json.loads, help="fields of a tile, for a part")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available():
        sys.exit("The kernel needs a GPU, and this machine has none.")
    if arguments.part:
        tile = Tile(**arguments.tile) if arguments.tile else None
        found = run_part(arguments.part, tile)
        (folder / "part.json").write_text(json.dumps(found))
        sys.exit(not found["passed"])
    deadline, copy = time.monotonic() + arguments.seconds, 4.2e12
    results: dict[str, dict[str, Any]] = {}

    def take(name: str, part: str, tile: Tile | None, seconds: float = PART_SECONDS) -> dict[str, Any]:
        left = deadline - time.monotonic()
        if left < 5:
            print(f"{name}: skipped, no time is left", flush=True)
            return {"passed": False}
        results[name] = found = start(part, tile, folder, min(seconds, left))
        print(line(name, found, copy), flush=True)
        (folder / "decode_step.json").write_text(json.dumps(results, indent=1))
        return found

    right = take("small model", "small", None)["passed"]
    copy = take("today's step", "time", None).get("copy", copy)
    right &= take("full model", "full", None)["passed"]
    tiles = dict(TILES)
    name = next(iter(tiles))
    take(name, "time", tiles.pop(name))  # the others may have no time left
    if right:
        take("generation, " + name, "generation", TILES[name], GENERATION_SECONDS)
        take("generation, today's step", "generation", None, GENERATION_SECONDS)
    for other, tile in tiles.items():
        take(other, "time", tile)
    sys.exit(not right)


if __name__ == "__main__":
    main()
