"""Tables of the decode engine on a GPU: images and clips end to end; random requests while images are encoded."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Sequence as Rows
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Ceilings, Spread
from kernels.decode_attention.reference import FLOAT8
from kernels.runtime import jit
from model.generator.config import GENERATOR_CONFIGS, LanguageModelConfig
from model.generator.lm import LanguageModel
from model.generator.sampling import SamplingParams, row_seed
from model.inference.decoder import Decoder, Sequence
from model.inference.tokenizer import CompiledTokenizer
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer

MODEL = "lm-650m"
SAMPLING = SamplingParams(top_k=2048, guidance=2.5)
MAX_RUNS, MAX_RUN_SECONDS = 3, 8.0  # of a line; the first run is not counted
IMAGE_SIDE = 256
MIXED_GRID = (5, 16, 16)  # clips of 17 x 128 x 128, images of their first frame
MIXED_REQUESTS = 32
LOADS = ((64, 0.25), (32, 0.5))  # slots, and the share of the static batch's time in which all requests arrive
ENCODE_INTERVAL_S = 0.005


@dataclass(frozen=True)
class Work:
    """One line of the table.

    Args:
        name: of the line.
        batch: guided sequences.
        frames: latent frames of 32 x 32 codes.
        kv_dtype: of the cache; bfloat16 by default.
        int8: round the weights.
    """

    name: str
    batch: int
    frames: int = 1
    kv_dtype: torch.dtype | None = None
    int8: bool = False

    @property
    def config(self) -> LanguageModelConfig:
        """Return the config of a model that generates so many frames."""
        config = GENERATOR_CONFIGS[MODEL]
        assert isinstance(config, LanguageModelConfig)
        grid = (self.frames, *config.grid[1:])
        return replace(config, grid=grid, positions=config.prefix_length + math.prod(grid) - 1)


WORKS = (
    Work("image, B 1", 1),
    Work("image, B 1, int8 weights", 1, int8=True),
    Work("image, B 16", 16),
    Work("image, B 64", 64),
    Work("image, B 64, fp8 cache", 64, kv_dtype=FLOAT8),
    Work("clip of 5,120 codes, B 4", 4, frames=5),
)


def run(ceilings: Ceilings, works: Rows[Work] = WORKS) -> None:
    """Print the table, then the mixed load."""
    table = Table(title=f"{MODEL}, random weights, guided, decoded to pixels; {ceilings}")
    for column in ("work", "seconds", "of them pixels", "ms a step", "TB/s", "floor s", "of floor"):
        table.add_column(column, justify="left" if column == "work" else "right")
    tokenizer = _tokenizer(works)
    for work in works:
        table.add_row(work.name, *_line(work, tokenizer, ceilings))
        torch.cuda.empty_cache()
    Console(width=150).print(table)
    mixed(tokenizer)


@torch.inference_mode()
def _tokenizer(works: Rows[Work]) -> CompiledTokenizer:
    """Return the published tokenizer with the graphs that the tables run."""
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(CONFIGS["published"]).cuda().eval().requires_grad_(False)
    tokenizer.encoder.to(torch.bfloat16)
    tokenizer.decoder.to(torch.bfloat16)
    compiled = CompiledTokenizer(tokenizer)
    codes = [
        torch.zeros(work.batch, *work.config.grid, dtype=torch.int64, device="cuda")
        for work in sorted(works, key=lambda work: -work.batch * work.frames)
    ]
    pixels = torch.zeros(1, 1, IMAGE_SIDE, IMAGE_SIDE, 3, dtype=torch.uint8, device="cuda")
    with jit.compile_all():
        compiled.network.encode(pixels)
        for example in codes:
            compiled.network.decode(example)
    compiled.encoding.capture(pixels)
    for example in codes:
        compiled.decoding.capture(example)
    return compiled


def _model(config: LanguageModelConfig) -> LanguageModel:
    torch.manual_seed(0)
    with torch.device("cuda"):
        return LanguageModel(config).eval().requires_grad_(False)


def _line(work: Work, tokenizer: CompiledTokenizer, ceilings: Ceilings) -> list[str]:
    config, rows = work.config, 2 * work.batch
    decoder = Decoder(_model(config), rows, "cuda", kv_dtype=work.kv_dtype, int8=work.int8, min_rows=rows)
    decoder.warm_up()
    length = math.prod(config.grid)
    totals: list[float] = []
    pixels: list[float] = []
    while len(totals) < 2 or (len(totals) < MAX_RUNS and sum(totals) < MAX_RUN_SECONDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        handles = []
        for index in range(work.batch):
            params = replace(SAMPLING, seed=row_seed(len(totals), index))
            prefix = config.prefix_ids(index % config.classes)
            handles.append(decoder.join(Sequence(prefix, length, params, config.unconditional_prefix_ids())))
        while not decoder.finished(handles[-1]):
            decoder.step()
        codes = torch.stack([decoder.read(handle) for handle in handles])
        generated = time.perf_counter()
        tokenizer.decode(codes.view(-1, *config.grid).cuda()).cpu()
        totals.append(time.perf_counter() - start)
        pixels.append(time.perf_counter() - generated)
        for handle in handles:
            decoder.leave(handle)
    total, decoding = min(totals[1:]), min(pixels[1:])
    moved = length * (decoder.network.step_bytes + rows * decoder.slot_bytes * (length + 1) / 2 / config.positions)
    floor = moved / ceilings.copy
    step = (total - decoding) / length
    return [
        f"{total:.3f}",
        f"{decoding:.3f}",
        f"{1e3 * step:.3f}",
        f"{moved / (total - decoding) / 1e12:.2f}",
        f"{floor:.3f}",
        f"{floor / total:.0%}",
    ]


def mixed(tokenizer: CompiledTokenizer) -> None:
    """Print the throughput of requests that arrive at random, and the time of encodes meanwhile."""
    config = replace(Work("", 1).config, prefix="class", null_class=True, grid=MIXED_GRID, positions=1280)
    model, requests = _model(config), _requests(config)
    codes = sum(request.length for request in requests)
    pixels = torch.randint(0, 256, (1, 1, IMAGE_SIDE, IMAGE_SIDE, 3), dtype=torch.uint8, device="cuda")
    alone = _encodes(tokenizer, pixels, threading.Event(), 100)
    for slots, share in LOADS:
        decoder = Decoder(model, slots, "cuda")
        decoder.warm_up()
        at_once = [0.0] * len(requests)
        _serve(decoder, requests, at_once)
        static, _ = _serve(decoder, requests, at_once)
        draw = random.Random(0)
        arrivals = sorted(draw.uniform(0, share * static) for _ in requests)
        spread, waits = _serve(decoder, requests, arrivals)
        print(
            f"{len(requests)} mixed requests ({codes} codes) in {slots} slots: {static:.2f} s when all are there, "
            f"{spread:.2f} s when they arrive at random within {share * static:.2f} s: {static / spread:.0%} of the "
            f"throughput; {waits} ms from arrival to result"
        )
        together, meanwhile = _serve_beside(decoder, requests, arrivals, tokenizer, pixels)
        print(f"encode of an image: {alone} ms alone, {meanwhile} ms with decoding, which takes {together:.2f} s then")


def _serve_beside(
    decoder: Decoder,
    requests: Rows[Sequence],
    arrivals: Rows[float],
    tokenizer: CompiledTokenizer,
    pixels: torch.Tensor,
) -> tuple[float, Spread]:
    """Serve requests while another thread encodes; return the seconds of all, and an encode's milliseconds."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        encodes = pool.submit(_encodes, tokenizer, pixels, stop, None)
        seconds, _ = _serve(decoder, requests, arrivals)
        stop.set()
        return seconds, encodes.result()


def _requests(config: LanguageModelConfig) -> list[Sequence]:
    """Return images, clips and frame predictions of many settings, in random order."""
    draw = random.Random(1)
    frame = config.grid[1] * config.grid[2]
    found = []
    for index in range(MIXED_REQUESTS):
        params = SamplingParams(
            draw.choice((0.8, 1.0, 1.2)), draw.choice((0, 500, 2048)), draw.choice((0.9, 1.0)), draw.choice((1.0, 2.5))
        )
        prompted = 2 * frame * (index % 4 == 3)
        length = frame if index % 2 == 0 else config.grid[0] * frame - prompted
        prompt = tuple(draw.randrange(config.codes) for _ in range(prompted))
        prefix, other = config.prefix_ids(draw.randrange(config.classes)), config.unconditional_prefix_ids()
        found.append(Sequence(prefix, length, replace(params, seed=row_seed(0, index)), other, prompt))
    draw.shuffle(found)
    return found


def _serve(decoder: Decoder, requests: Rows[Sequence], arrivals: Rows[float]) -> tuple[float, Spread]:
    """Serve requests in their order of arrival; return the seconds of all, and each one's milliseconds."""
    waiting = list(zip(arrivals, requests, strict=True))
    running: dict[int, float] = {}
    filling: dict[int, int] = {}
    waits: list[float] = []
    torch.cuda.synchronize()
    start = time.perf_counter()
    while waiting or running:
        now = time.perf_counter() - start
        while waiting and waiting[0][0] <= now and waiting[0][1].slots <= decoder.free:
            arrival, request = waiting.pop(0)
            handle = decoder.join(request)
            running[handle] = arrival
            if request.prefill:
                filling[handle] = request.prefill
        for handle in list(filling)[:1]:  # one pass between two steps
            filling[handle] = decoder.prefill(handle, 128)
            if not filling[handle]:
                del filling[handle]
        decoder.step()
        for handle in [handle for handle in running if decoder.finished(handle)]:
            decoder.read(handle)
            decoder.leave(handle)
            waits.append(1e3 * (time.perf_counter() - start - running.pop(handle)))
    return time.perf_counter() - start, Spread.of(waits)


def _encodes(tokenizer: CompiledTokenizer, pixels: torch.Tensor, stop: threading.Event, count: int | None) -> Spread:
    """Encode at intervals until stopped or `count` times; return the milliseconds of each."""
    times: list[float] = []
    encode = partial(tokenizer.encode, pixels)
    with torch.cuda.stream(torch.cuda.Stream(priority=-1)):
        done = torch.cuda.Event(blocking=True)
        while not stop.is_set() and (count is None or len(times) < count):
            start = time.perf_counter()
            encode()
            done.record()
            done.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
            time.sleep(ENCODE_INTERVAL_S)
    return Spread.of(times)
