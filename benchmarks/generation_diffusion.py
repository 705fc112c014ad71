"""Table of diffusion on a GPU: seconds of a sampling run, share of its floor, torch.compile, a forecast of features.

`python -m benchmarks.generation_diffusion` prints in a minute what the choice of the library's algorithms gains.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import Ceilings, Spread, describe_machine, time_call, time_on_device
from kernels.gelu_linear.library import use_torch_algorithm
from model.generator.diffusion_config import DIFFUSION_CONFIGS, DiffusionConfig
from model.generator.diffusion_sampling import (
    DiffusionItem,
    DiffusionParams,
    FeatureCache,
    StepFactors,
    denoise_step,
    guide,
    step_factors,
)
from model.generator.dit import DiT
from model.generator.noise_schedule import NoiseSchedule
from model.inference.diffusion import DiffusionSampler
from model.inference.graphs import WARM_UPS, capture_graph, on_stream

WORK = (("dit-xl/2", 1), ("dit-xl/2", 8), ("latte-xl/2", 1))
"""The timed work: named config and items, each with its unconditional row."""
STEPS, GUIDANCE = 50, 4.0
CACHE = FeatureCache(interval=3)
COMPILED_STEPS = 5  # back to back in a run
RUNS = 7


@dataclass(frozen=True)
class Line:
    """The results of one kind of work.

    Args:
        name: config and items.
        floor: seconds at the ceilings of the run.
        seconds: of a whole run by name; None if it failed.
        deviation: of the forecast from the full run, root of the mean square in units of the latents'.
        error, modules_error: of one prediction in bfloat16 against float32, likewise: ours, and torch's modules.
        memory: bytes beyond the weights.
    """

    name: str
    floor: float
    seconds: dict[str, Spread | None]
    deviation: float
    error: float
    modules_error: float
    memory: int


def step_flops(config: DiffusionConfig) -> int:
    """Return the FLOPs of the products of one row and step; modulations are made ahead."""
    frames, height, width = config.tokens
    positions, wide = height * width, config.width
    linear = 2 * frames * positions * wide**2 * (4 + 2 * config.mlp_ratio) * config.layers
    ends = 2 * frames * positions * 3 * config.patch**2 * config.channels * wide
    temporal = sum(config.attends_along_time(layer) for layer in range(config.layers))
    spatial = 4 * frames * positions**2 * wide * (config.layers - temporal)
    return linear + ends + spatial + 4 * frames**2 * positions * wide * temporal


def floor(config: DiffusionConfig, rows: int, ceilings: Ceilings) -> float:
    """Return the seconds below which no run of `STEPS` gets: products at their ceiling, or weights read once a step."""
    weights = 2 * config.layers * config.width**2 * (4 + 2 * config.mlp_ratio)  # bytes, bfloat16
    return STEPS * max(rows * step_flops(config) / ceilings.product, weights / ceilings.copy)


def random_model(config: DiffusionConfig) -> DiT:
    """Return a network in bfloat16 whose blocks all act, on the GPU."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = DiT(config).eval().requires_grad_(False)
    for layer in (model.modulation, model.out):
        layer.weight.normal_(std=0.02)
    return model.to(torch.bfloat16)


def _models() -> Iterator[tuple[str, int, DiT]]:
    """Yield name, items and network of all work."""
    model = None
    for name, items in WORK:
        config = DIFFUSION_CONFIGS[name]
        if model is None or model.config != config:
            model = random_model(config)
        yield f"{name}, B {items}", items, model


def run(runs: int, ceilings: Ceilings) -> None:
    """Print the table.

    Args:
        runs: timed runs of each cell.
        ceilings: of this GPU, for the floors.
    """
    lines = []
    for name, items, model in _models():
        lines.append(_line(model, name, items, runs, ceilings))
        torch.cuda.empty_cache()
    table = Table(
        title=f"{STEPS} DDIM steps, guided, bfloat16: seconds, median (fastest-slowest), share of the floor; {ceilings}"
    )
    for column in ("work", "floor", *lines[0].seconds, "deviation", "error", "modules' error", "MB"):
        table.add_column(column, justify="right")
    for line in lines:
        cells = ["-" if spread is None else _cell(spread, line.floor) for spread in line.seconds.values()]
        errors = f"{line.deviation:.3f}", f"{line.error:.4f}", f"{line.modules_error:.4f}"
        table.add_row(line.name, f"{line.floor:.4f}", *cells, *errors, f"{line.memory / 1e6:.0f}")
    Console(width=200).print(table)


def _cell(spread: Spread, floor: float) -> str:
    seconds = Spread(*(value / 1e3 for value in (spread.median, spread.low, spread.high)))
    return f"{seconds.median:.4f} ({seconds.low:.4f}-{seconds.high:.4f}), {floor / seconds.median:.0%}"


def _line(model: DiT, name: str, items: int, runs: int, ceilings: Ceilings) -> Line:
    config, batch = model.config, _batch(model, items)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    sampler = _sampler(model, items)
    full, cached = DiffusionParams(steps=STEPS), DiffusionParams(steps=STEPS, cache=CACHE)
    whole, forecast = sampler.sample(batch, full), sampler.sample(batch, cached)
    memory = torch.cuda.max_memory_allocated() - before
    calls = [partial(made.sample, batch, full) for made in (sampler, _torch_sampler(model, items))]
    for call in calls:
        call()
    ours, plain = _by_turns(calls, runs)
    seconds: dict[str, Spread | None] = {
        "ours": ours,
        "ours, torch's algorithms": plain,
        f"forecast, interval {CACHE.interval}": time_call(lambda: sampler.sample(batch, cached), runs),
    }
    seconds |= _compiled(model, items, runs)
    deviation = _distance(forecast, whole)
    return Line(name, floor(config, 2 * items, ceilings), seconds, deviation, *_errors(model, sampler, items), memory)


def _batch(model: DiT, items: int) -> list[DiffusionItem]:
    return [DiffusionItem(index % model.config.classes, index, GUIDANCE) for index in range(items)]


def _sampler(model: DiT, items: int) -> DiffusionSampler:
    """Return a sampler whose step for so many guided items is captured."""
    sampler = DiffusionSampler(model, "cuda", torch.bfloat16)
    sampler.prepare({(model.config.grid[0], True): [items]})
    return sampler


def _torch_sampler(model: DiT, items: int) -> DiffusionSampler:
    """Return a sampler whose products run by torch's choice of algorithms."""
    with use_torch_algorithm():
        return _sampler(model, items)


def _by_turns(calls: Sequence[Callable[[], Tensor]], runs: int) -> list[Spread]:
    """Time calls that have run before, by turns, so that a GPU that slows down slows all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, spent in zip(calls, times, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            spent.append(1e3 * (time.perf_counter() - start))
    return [Spread.of(spent) for spent in times]


def main() -> None:
    """Print seconds with and without the choice of algorithms, and whether both give the same bits."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("kernels.gelu_linear").setLevel(logging.INFO)  # what is chosen, or why nothing is
    print(describe_machine())
    params = DiffusionParams(steps=STEPS)
    for name, items, model in _models():
        samplers = _sampler(model, items), _torch_sampler(model, items)
        calls = [partial(sampler.sample, _batch(model, items), params) for sampler in samplers]
        bits = "the same bits" if torch.equal(*(call() for call in calls)) else "OTHER BITS"
        ours, torchs = _by_turns(calls, RUNS)
        print(f"{name}: {ours} ms, {torchs} with torch's algorithms, {ours.median / torchs.median:.3f}, {bits}")


def _distance(found: Tensor, wanted: Tensor) -> float:
    return ((found.float() - wanted).square().mean() / wanted.float().square().mean()).sqrt().item()


@torch.inference_mode()
def _errors(model: DiT, sampler: DiffusionSampler, items: int) -> tuple[float, float]:
    """Return the errors of a prediction in bfloat16, ours and the modules', against float32."""
    x, timesteps, classes = _inputs(model.config, items)
    features = sampler.network.features(x, sampler.network.modulate(timesteps, classes))
    ours = sampler.network.predict(features.normed, x.shape[1])
    modules = model(x, timesteps, classes)
    exact = model.float()(x, timesteps, classes)
    model.to(torch.bfloat16)
    return _distance(ours, exact), _distance(modules, exact)


def _inputs(config: DiffusionConfig, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(rows, *config.grid, config.channels, device="cuda", generator=generator)
    return x, torch.full((rows,), 500, device="cuda"), torch.arange(rows, device="cuda") % config.classes


@torch.inference_mode()
def _compiled(model: DiT, items: int, runs: int) -> dict[str, Spread | None]:
    """Return the times of the modules under torch.compile, a block at a time, without and with a captured step.

    Modulations are made in each step, as the published code does.
    """
    config = model.config
    x, timesteps, classes = _inputs(config, items)
    rows = torch.cat((classes, torch.full_like(classes, config.null_class)))
    scale = torch.full((items,), GUIDANCE, device="cuda")
    factors = step_factors(NoiseSchedule.linear(config.timesteps).respaced(STEPS), "ddim").cuda()[STEPS // 2]

    def step() -> Tensor:
        prediction = model(torch.cat((x, x)), timesteps.repeat(2), rows).float()
        conditional, unconditional = prediction.chunk(2)
        mixed = guide(conditional, unconditional, scale, config.guidance_channels or config.channels)
        return denoise_step(x, mixed, StepFactors(*factors.unbind()), None)

    names = ("torch.compile", "torch.compile, captured")
    start = time.perf_counter()
    try:
        for block in model.blocks:
            block.compile(dynamic=False)
        with on_stream(torch.cuda.Stream()):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.synchronize()
        print(f"torch.compile, {items} items: {time.perf_counter() - start:.0f} s", flush=True)
        graph, _ = capture_graph(step)
        return dict(zip(names, (_steps(step, runs), _steps(graph.replay, runs)), strict=True))
    except Exception as error:  # a failed baseline must not end the run
        print(f"torch.compile: could not be timed: {(str(error).splitlines() or [repr(error)])[0][:150]}")
        torch.cuda.synchronize()
        return dict.fromkeys(names)
    finally:
        torch._dynamo.reset()
        for block in model.blocks:
            block._compiled_call_impl = None


def _steps(step: Callable[[], object], runs: int) -> Spread:
    """Return the milliseconds of a whole run of steps."""
    spread = time_on_device(step, runs, COMPILED_STEPS)
    return Spread(*(STEPS * value for value in (spread.median, spread.low, spread.high)))


if __name__ == "__main__":
    main()
