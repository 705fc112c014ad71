"""Generate with a tiny random language model and tokenizer on a CPU: pixels, prefixes, windows, events, refusals."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))

from generator_lane import plain_lane
from waiting import SECONDS

from model.bundle import save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS, VAEConfig
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.generator import GeneratorEngine
from service.engine.lane import LaneOptions
from service.engine.tokenizer import Engine
from service.errors import ProblemError
from service.formats.result import EncodeMeta, EncodeResult
from service.in_process import LocalBackend, LocalGenerators, Unobserved
from service.operations.clip import ClipSource
from service.operations.events import Accepted, Event, Generation, Preview, Progress, Started
from service.operations.generate import generate
from service.operations.generate_plan import Window, plan_generate, windows
from service.operations.options_generate import MAX_SAMPLES, GenerateOptions
from service.settings import Limits, Settings
from service.types import GenerateJob, GeneratorCard, ModelCard

SETTINGS = Settings(bundles=())
NO_POOL: Any = None  # arrays and tokens need no decoder
ROW = 4  # codes of a row of the tiny grid
FRAME = 16


class Rig:
    """Both tiers in this process."""

    def __init__(self, bundle: Path) -> None:
        engine = Engine([bundle], "cpu", "float32", 1)
        self.tokenizer = engine.cards[0]
        self.backend = LocalBackend(engine.cards, engine.launch, SETTINGS, Unobserved())
        self.lane = plain_lane(self.tokenizer.hash)
        self.generators = LocalGenerators(GeneratorEngine([self.lane]), SETTINGS, Unobserved())

    async def generate(self, source: Any = None, limits: Limits | None = None, **options: Any) -> Generation:
        seconds, on_event = options.pop("seconds", None), options.pop("on_event", None)
        chosen = GenerateOptions(**{"seed": 7, "class": 1, **options})
        return await generate(
            self.backend, self.generators, NO_POOL, source, chosen, limits or Limits(), on_event, seconds=seconds
        )

    async def tokens(self, pixels: Any) -> Any:
        return (await self.backend.encode(self.tokenizer.id, pixels, "tokens")).tokens


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    save_bundle(path, OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    return path


@pytest.fixture
def rig(bundle: Path) -> Iterator[Rig]:
    rig = Rig(bundle)
    yield rig
    rig.generators.close()
    rig.backend.close()


def pixels(frames: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), np.uint8)


def sizes(made: Generation) -> list[tuple[int, ...]]:
    return [sample.pixels.shape for sample in made.samples if sample.pixels is not None]


async def test_a_class_becomes_pictures(rig: Rig) -> None:
    made = await rig.generate(n=2, output="both")
    assert sizes(made) == [(1, 32, 32, 3)] * 2
    assert (made.class_id, made.seed, made.size, made.prefix_frames) == (1, 7, (1, 32, 32), 0)
    first, second = made.samples
    assert not np.array_equal(first.tokens, second.tokens)
    decoded = await rig.backend.decode(rig.tokenizer.id, first.tokens, (1, 32, 32))
    np.testing.assert_array_equal(first.pixels, decoded.pixels)
    assert made.codes(0).meta.bundle == rig.tokenizer.hash
    assert made.pixels(1).card is made.card


async def test_a_seed_makes_the_same_samples_alone_and_in_a_crowd(rig: Rig) -> None:
    alone = await rig.generate(n=3, output="tokens")
    work = [rig.generate(n=3, output="tokens"), *(rig.generate(seed=seed) for seed in range(3))]
    crowd, *_ = await asyncio.gather(*work)
    for one, other in zip(alone.samples, crowd.samples, strict=True):
        assert one.pixels is None
        np.testing.assert_array_equal(one.tokens, other.tokens)
    fewer = await rig.generate(n=1, output="tokens")
    np.testing.assert_array_equal(fewer.samples[0].tokens, alone.samples[0].tokens)


@pytest.mark.parametrize("prefix_frames", [None, 1, 5])
async def test_a_clip_is_continued(rig: Rig, prefix_frames: int | None) -> None:
    clip = pixels(9)
    kept = prefix_frames or 9
    made = await rig.generate(ClipSource(array=clip), frames=17, prefix_frames=prefix_frames, output="both")
    assert (sizes(made), made.prefix_frames) == ([(17, 32, 32, 3)], kept)
    tokens = made.samples[0].tokens
    assert tokens is not None
    given = await rig.tokens(clip[:kept])
    np.testing.assert_array_equal(tokens[: len(given)], given)
    source = EncodeResult(EncodeMeta(bundle=rig.tokenizer.hash), await rig.tokens(clip))
    again = await rig.generate(source, frames=17, prefix_frames=prefix_frames or 9, output="tokens")
    np.testing.assert_array_equal(again.samples[0].tokens, tokens)


async def test_frames_beyond_the_trained_length_come_in_windows(rig: Rig) -> None:
    seen: list[Event] = []
    made = await rig.generate(frames=33, kind="video", output="both", on_event=seen.append)
    assert sizes(made) == [(33, 32, 32, 3)]
    first, whole = await rig.generate(frames=17, output="both"), made.samples[0].pixels
    assert whole is not None
    np.testing.assert_array_equal(whole[:17], first.samples[0].pixels)
    np.testing.assert_array_equal(made.samples[0].tokens, await rig.tokens(whole))
    total = FRAME * (5 + 3 + 1)
    assert seen[0] == Accepted(0, None, total)
    assert seen[1] == Started()
    done = [event.done for event in seen if isinstance(event, Progress)]
    assert (done, done[-1]) == (sorted(done), total)


async def test_a_later_window_continues_the_frames_before_it(rig: Rig) -> None:
    made = await rig.generate(frames=25)
    first = (await rig.generate(frames=17)).samples[0].pixels
    assert first is not None
    context = await rig.tokens(first[-5:])
    job = replace(_job(rig), prompt=context, frames=4, index=MAX_SAMPLES)
    second = await rig.generators.generate(job, lambda progress: None)
    decoded = await rig.backend.decode(rig.tokenizer.id, second.tokens, (13, 32, 32))
    np.testing.assert_array_equal(made.samples[0].pixels, np.concatenate([first, decoded.pixels[5:]]))


def _job(rig: Rig) -> GenerateJob:
    return GenerateJob("tiny-lm", 1, 5, rig.lane.card.defaults, 7)


def test_windows_add_up() -> None:
    assert windows(5, 5, 0) == (Window(0, 5),)
    assert windows(9, 5, 2) == (Window(2, 5), Window(2, 5), Window(2, 3))
    assert windows(4, 2, 1) == (Window(1, 2), Window(1, 2), Window(1, 2))


async def test_previews_show_rows_and_frames(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scheduling.step_executor.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("service.scheduling.step_executor.PREVIEW_SECONDS", 0.0)
    seen: list[Event] = []
    await rig.generate(frames=9, preview=True, on_event=seen.append)
    previews = [event.pixels for event in seen if isinstance(event, Preview)]
    assert previews
    for shown in previews:
        assert shown.shape[0] in (1, 5, 9)
        if shown.shape[0] == 1:
            assert shown[0, :8].std() > 0
    assert not any(isinstance(event, Preview) for event in await _events(rig, preview=False))


async def _events(rig: Rig, **options: Any) -> list[Event]:
    seen: list[Event] = []
    await rig.generate(on_event=seen.append, **options)
    return seen


async def test_a_caller_that_leaves_frees_its_slots(rig: Rig) -> None:
    seen: list[Event] = []
    task = asyncio.create_task(rig.generate(frames=17, n=2, on_event=seen.append))
    while not any(isinstance(event, Started) for event in seen):
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await rig.generate(n=2)
    assert not rig.lane.jobs


@pytest.mark.parametrize(("name", "frames"), [("dit-debug", 1), ("latte-debug", 9)])
async def test_diffusion_makes_the_same_samples_alone_and_in_a_crowd(name: str, frames: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(replace(CONFIGS["debug"], head=VAEConfig(4))).eval()
    made_by = save_bundle(tmp_path / "vae", tokenizer, card="Random weights for tests.")
    network, classes = make_generator(GENERATOR_CONFIGS[name]).eval(), ("ant", "bee", "cow", "dog")
    save_generator(tmp_path / "diffusion", network, "Random weights for tests.", made_by, classes)
    engine = Engine([tmp_path / "vae"], "cpu", "float32", 1)
    backend = LocalBackend(engine.cards, engine.launch, SETTINGS, Unobserved())
    lanes = GeneratorEngine.load([tmp_path / "diffusion"], "cpu", 1, LaneOptions(8, 8))
    generators = LocalGenerators(lanes, SETTINGS, Unobserved())

    async def make(**options: Any) -> Generation:
        chosen = GenerateOptions(**{"class": "cow", "seed": 3, "output": "both", **options})
        return await generate(backend, generators, NO_POOL, None, chosen, Limits())

    alone = await make(n=2, steps=4)
    crowd, *_ = await asyncio.gather(make(n=2, steps=4), make(n=2, steps=4, seed=5), make(steps=3), make(guidance=1))
    assert alone.size == (frames, 64, 64)
    for one, other in zip(alone.samples, crowd.samples, strict=True):
        assert one.latents is not None
        assert one.latents.shape == (*engine.cards[0].geometry.grid(alone.size), 4)
        np.testing.assert_allclose(one.latents, other.latents, atol=1e-4)
        decoded = await backend.decode("vae", one.latents, alone.size)
        np.testing.assert_array_equal(one.pixels, decoded.pixels)
    generators.close()
    backend.close()


async def test_encoding_never_waits_for_a_step(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gate, step = threading.Event(), threading.Event(), rig.lane.step

    def held(numbers: Collection[int]) -> None:
        entered.set()
        gate.wait(SECONDS)
        step(numbers)

    monkeypatch.setattr(rig.lane, "step", held)
    task = asyncio.create_task(rig.generate())
    await asyncio.to_thread(entered.wait, SECONDS)
    assert (await rig.tokens(pixels(5))).shape == (2, 4, 4)
    assert not task.done()
    gate.set()
    assert sizes(await task) == [(1, 32, 32, 3)]


OWN = "0" * 64  # in place of the hash of the served tokenizer
OTHER = EncodeResult(EncodeMeta(bundle="d" * 64), np.zeros((1, 4, 4), np.int32))


@pytest.mark.parametrize(
    ("code", "source", "options"),
    [
        ("unknown-class", None, {"class": 4}),
        ("unknown-class", None, {"class": "unicorn"}),
        ("unknown-model", None, {"model": "other"}),
        ("invalid-options", None, {"steps": 10}),
        ("invalid-options", None, {"temperature": 1e-9}),
        ("invalid-options", None, {"prefix_frames": 5}),
        ("invalid-options", pixels(1), {"kind": "image"}),
        ("invalid-options", pixels(1), {"frames": 1}),
        ("invalid-options", pixels(5), {"prefix_frames": 9}),
        ("invalid-options", pixels(9), {"prefix_frames": 9, "frames": 9}),
        ("invalid-options", pixels(9), {"prefix_frames": 4}),
        ("invalid-options", pixels(21), {"prefix_frames": 17, "frames": 33}),
        ("bad-grid", np.zeros((5, 16, 32, 3), np.uint8), {}),
        ("bad-grid", EncodeResult(EncodeMeta(bundle=OWN), np.zeros((2, 4, 3), np.int32)), {}),
        ("token-out-of-range", EncodeResult(EncodeMeta(bundle=OWN), np.full((2, 4, 4), 64)), {}),
        ("model-mismatch", OTHER, {}),
        ("invalid-options", EncodeResult(EncodeMeta(), np.zeros((1, 4, 4), np.int32)), {}),
        ("too-many-frames", None, {"frames": 133}),
        ("use-async", None, {"frames": 17, "n": 9}),
    ],
)
async def test_what_cannot_be_made_is_refused(rig: Rig, code: str, source: Any, options: dict[str, Any]) -> None:
    if isinstance(source, np.ndarray):
        source = ClipSource(array=source)
    elif source is not None and source.meta.bundle == OWN:
        source = replace(source, meta=EncodeMeta(bundle=rig.tokenizer.hash))
    with pytest.raises(ProblemError) as refused:
        await rig.generate(source, Limits(generated_tokens=640), **options)
    assert refused.value.code == code
    assert not rig.lane.jobs


async def test_what_would_take_too_long_is_refused_before_it_starts(rig: Rig) -> None:
    await rig.generate()
    with pytest.raises(ProblemError) as refused:
        await rig.generate(frames=17, seconds=1e-6)
    assert refused.value.code == "use-async"
    assert "fewer samples or frames" in refused.value.detail


async def test_samples_share_the_steps_of_a_gpu_and_take_their_turns_on_a_cpu(rig: Rig) -> None:
    def seconds(device: str, n: int) -> float:
        card = replace(rig.lane.card, device=device, step_seconds=0.5, tokenizer=rig.tokenizer.id)
        found = plan_generate([rig.tokenizer], [card], GenerateOptions(n=n, guidance=1.0), Limits(), False).seconds
        assert found is not None
        return found

    one = seconds("cpu", 1)
    assert [seconds("cpu", n) / one for n in (2, 4, 8)] == [2, 4, 8]
    assert [seconds("cuda", n) / one for n in (1, 2, 4, 8)] == [1, 1, 1, 2], "of four slots"


def plan(*generators: GeneratorCard, source: bool = False, **options: Any) -> Any:
    tokenizer = ModelCard("tiny", "a" * 64, "vq", 64, 4, 8, 4, "causal", True, 1, "cpu", "float32")
    return plan_generate([tokenizer], generators, GenerateOptions(**options), Limits(), source)


LM = replace(plain_lane("a" * 64).card, tokenizer="tiny")
DIT = replace(LM, id="dit", kind="diffusion", makes=("image",), grid=(1, 4, 4), takes_prefix=False, max_steps=100)
LATTE = replace(DIT, id="latte", makes=("video", "image"), grid=(3, 4, 4))
PREDICTOR = replace(LM, id="predictor", makes=("video",), class_count=0, guided=False, needs_prefix=True)


def test_a_generator_is_named_or_the_first_that_can() -> None:
    every = (DIT, LATTE, LM, PREDICTOR)
    assert plan(*every).generator is DIT
    assert plan(*every, frames=9).generator is LATTE
    assert plan(*every, kind="video", source=True).generator is LM
    assert plan(PREDICTOR, DIT, model="predictor", source=True).windows == (Window(2, 5),)
    assert plan(LATTE).size == (9, 32, 32)
    assert plan(DIT, steps=20, guidance=3).params == replace(LM.defaults, steps=20, guidance=3.0)
    assert plan(LM, **{"class": "bee"}).class_id == 1
    assert plan(LM).params.guidance == 1.0, "guidance leads towards a class"


def test_a_generator_of_clips_makes_pictures_where_it_is_asked_for_them() -> None:
    for options in ({"kind": "image"}, {"frames": 1}):
        assert plan(LATTE, model="latte", **options).size == (1, 32, 32)
    assert plan(LATTE, LM).generator is LM, "which is for pictures"
    assert plan(LATTE, LM, kind="image").generator is LM
    assert plan(LATTE, LM, kind="video").generator is LATTE
    for card in (replace(LATTE, makes=("video",)), PREDICTOR):
        with pytest.raises(ProblemError, match="makes no images"):
            plan(card, kind="image")


@pytest.mark.parametrize(
    ("code", "generator", "options"),
    [
        ("invalid-options", DIT, {"kind": "video"}),
        ("invalid-options", LATTE, {"frames": 13, "model": "latte"}),
        ("invalid-options", LATTE, {"source": True}),
        ("invalid-options", DIT, {"temperature": 1}),
        ("invalid-options", DIT, {"guidance": 0.5}),
        ("invalid-options", DIT, {"steps": 101}),
        ("invalid-options", PREDICTOR, {"source": True, "guidance": 2}),
        ("missing-part", PREDICTOR, {"kind": "video"}),
        ("tokenizer-not-served", replace(LM, tokenizer=None), {}),
    ],
)
def test_a_generator_does_what_it_can(code: str, generator: GeneratorCard, options: dict[str, Any]) -> None:
    with pytest.raises(ProblemError) as refused:
        plan(generator, **options)
    assert refused.value.code == code
