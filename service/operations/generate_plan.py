"""The plan of a generation: which bundles, which class, how large, with which settings, in which windows."""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from media.types import DEFAULT_FPS
from model.generator.limits import MIN_TEMPERATURE
from service.errors import ProblemError
from service.operations.bundles import find_card
from service.operations.clip import check_size
from service.operations.generators import find_class, find_generator
from service.operations.options_generate import GenerateOptions
from service.settings import Limits
from service.types import SAMPLING_SETTINGS, GenerateParams, GeneratorCard, Kind, ModelCard, Size

CONTEXT_LATENT_FRAMES = 2  # that a later window continues, as in the frame prediction of the paper (section 4.2)


@dataclass(frozen=True)
class Window:
    """Latent frames of one run of the generator: `context` that it continues, `frames` with it."""

    context: int
    frames: int


@dataclass(frozen=True)
class GeneratePlan:
    """The work of one request.

    Args:
        generator: the bundle that makes codes.
        card: the tokenizer that decodes them.
        class_id: class of the samples, or None.
        size: frames, height and width of a sample in pixels.
        params: settings, defaults filled in.
        seed: of the request.
        samples: how many.
        prefix_frames: frames of pixels that the samples continue, 0 for none.
        windows: runs of the generator, one after the other; more than one beyond the length that it was trained on.
        fps: rate of a clip, frames per second, or None for the source's or the default.
    """

    generator: GeneratorCard
    card: ModelCard
    class_id: int | None
    size: Size
    params: GenerateParams
    seed: int
    samples: int
    prefix_frames: int
    windows: tuple[Window, ...]
    fps: float | None

    @property
    def rate(self) -> float:
        """Return the frames per second where no source has its own."""
        return self.fps or DEFAULT_FPS

    def steps(self, window: Window) -> int:
        """Return the steps of one sample in a window."""
        if self.generator.kind == "diffusion":
            return self.params.steps
        _, height, width = self.generator.grid
        return (window.frames - window.context) * height * width

    @property
    def total(self) -> int:
        """Return the steps of the whole request."""
        return self.samples * sum(self.steps(window) for window in self.windows)

    @property
    def seconds(self) -> float | None:
        """Return the estimated time of the request once it runs; None before a step has been measured."""
        if self.generator.step_seconds is None:
            return None
        if self.generator.computes_in_order:
            return self.generator.step_seconds * self.total
        slots = 2 if self.params.guidance != 1 else 1
        rounds = math.ceil(self.samples * slots / self.generator.slots)
        return self.generator.step_seconds * rounds * self.total / self.samples


def plan_generate(
    cards: Sequence[ModelCard],
    generators: Sequence[GeneratorCard],
    options: GenerateOptions,
    limits: Limits,
    has_source: bool,
    source_frames: int | None = None,
) -> GeneratePlan:
    """Choose bundles, class, size and settings, and check them.

    Args:
        cards: the tokenizers that are served.
        generators: the generators, each with the id of its tokenizer.
        options: as the caller gave them.
        limits: of one request.
        has_source: whether frames come with the request that the samples continue.
        source_frames: how many they are, where that is known before a file is read.

    Raises:
        ProblemError: what the generator cannot make, and what goes over a limit.
    """
    kind = _kind(generators, options, has_source)
    generator = _generator(generators, options, kind, has_source)
    card = find_card(cards, generator.tokenizer)
    size = _size(generator, card, options, kind)
    check_size(card, size, limits, "Use fewer frames.")
    prefix_frames = _prefix_frames(generator, card, options, size, has_source, source_frames)
    plan = GeneratePlan(
        generator,
        card,
        find_class(generator, options.class_),
        size,
        _params(generator, options),
        secrets.randbelow(2**31) if options.seed is None else options.seed,
        options.n,
        prefix_frames,
        windows(card.geometry.grid(size)[0], generator.grid[0], _latent(card, prefix_frames)),
        options.fps,
    )
    positions = options.n * card.geometry.positions(size)
    if positions > limits.generated_tokens:
        detail = f"The samples have {positions} positions together. Ask for fewer samples or frames."
        raise ProblemError("use-async", detail, limits.generated_tokens, positions)
    return plan


def check_seconds(plan: GeneratePlan, seconds: float) -> None:
    """Refuse what takes longer than a caller may wait.

    Raises:
        ProblemError: `use-async`, which says how to ask for less.
    """
    if plan.seconds is not None and plan.seconds > seconds:
        detail = f"This takes about {plan.seconds:.0f} s, and an answer must be ready in {seconds:.3g} s."
        raise ProblemError("use-async", f"{detail} Ask for fewer {less_work(plan)}.", seconds, round(plan.seconds, 1))


def less_work(plan: GeneratePlan) -> str:
    """Return what to ask for less of where a plan takes too long."""
    return "samples or steps" if plan.generator.kind == "diffusion" else "samples or frames"


def windows(frames: int, trained: int, context: int) -> tuple[Window, ...]:
    """Return the runs that make so many latent frames.

    Args:
        frames: latent frames of the result.
        trained: latent frames that one run can have.
        context: latent frames of the prefix, which the first run continues.
    """
    found = [Window(context, min(frames, trained))]
    made = found[0].frames
    while made < frames:
        again = min(CONTEXT_LATENT_FRAMES, trained - 1)
        more = min(trained - again, frames - made)
        found.append(Window(again, again + more))
        made += more
    return tuple(found)


def _kind(generators: Sequence[GeneratorCard], options: GenerateOptions, has_source: bool) -> Kind:
    if options.kind is not None:
        return options.kind
    if has_source or options.prefix_frames is not None or (options.frames or 1) > 1:
        return "video"
    named = [card for card in generators if card.id == options.model] or generators
    return "image" if not named or any(card.makes[0] == "image" for card in named) else "video"


def _generator(
    generators: Sequence[GeneratorCard], options: GenerateOptions, kind: Kind, has_source: bool
) -> GeneratorCard:
    """Return the generator that is named, or the first that can do the work."""
    able = [card for card in generators if kind in card.makes and (card.takes_prefix if has_source else True)]
    able = [card for card in able if card.tokenizer and (has_source or not card.needs_prefix)] or able
    able.sort(key=lambda card: (kind, card.makes[0]) == ("image", "video"))  # those that are for images come first
    generator = find_generator(generators if options.model else (able or generators), options.model)
    if kind not in generator.makes:
        detail = f"The generator {generator.id} makes no {kind}s. GET /models lists what each makes."
        raise ProblemError.of_option("kind", detail)
    if has_source and not generator.takes_prefix:
        detail = f"The generator {generator.id} continues no frames. Leave the picture or clip out."
        raise ProblemError.of_option("model", detail)
    if generator.needs_prefix and not has_source:
        detail = f"The generator {generator.id} continues given frames. Send a picture, a clip or tokens."
        raise ProblemError("missing-part", detail)
    return generator


def _size(generator: GeneratorCard, card: ModelCard, options: GenerateOptions, kind: Kind) -> Size:
    trained, height, width = card.geometry.size(generator.grid)
    if kind == "image":
        return 1, height, width
    frames = options.frames or trained
    if frames > trained and not generator.takes_prefix:
        raise ProblemError.of_option("frames", f"The generator {generator.id} makes at most {trained} frames.")
    return frames, height, width


def _prefix_frames(
    generator: GeneratorCard,
    card: ModelCard,
    options: GenerateOptions,
    size: Size,
    has_source: bool,
    source_frames: int | None,
) -> int:
    """Return the frames of the source that the samples continue."""
    if not has_source:
        if options.prefix_frames is not None:
            raise ProblemError.of_option(
                "prefix_frames", "No frames came to continue. Send a picture, a clip or tokens."
            )
        return 0
    if size[0] == 1:
        raise ProblemError.of_option(
            "kind", "A single frame continues nothing. Ask for a video of more frames, or send no frames."
        )
    stride, most = card.temporal_patch, card.geometry.size(generator.grid)[0]
    if options.prefix_frames is None:
        there = 1 + (CONTEXT_LATENT_FRAMES - 1) * stride if source_frames is None else source_frames
        fits = min(there, size[0] - 1, most - stride)
        return 1 + max(0, fits - 1) // stride * stride
    given = options.prefix_frames
    if (given - 1) % stride:
        near = 1 + (given - 1) // stride * stride
        detail = f"A prefix has 1 + {stride} k frames, not {given}. Use {near} or {near + stride}."
        raise ProblemError.of_option("prefix_frames", detail)
    if source_frames is not None and given > source_frames:
        raise _too_short(given, source_frames)
    if given >= size[0]:
        raise ProblemError.of_option(
            "prefix_frames", f"A prefix of {given} frames leaves nothing of {size[0]} to make. Use fewer."
        )
    if given >= most:
        detail = f"A prefix of {given} frames fills the {most} frames of {generator.id}. Use at most {most - stride}."
        raise ProblemError.of_option("prefix_frames", detail)
    return given


def _too_short(wanted: int, there: int) -> ProblemError:
    return ProblemError.of_option(
        "prefix_frames", f"The clip has {there} frames, fewer than the {wanted} of the prefix. Use fewer."
    )


def shortened(plan: GeneratePlan, frames: int, asked: bool) -> GeneratePlan:
    """Return the plan for a source that turned out to have fewer frames.

    Args:
        plan: made before the file was read.
        frames: frames that the file has.
        asked: whether the caller named the length of the prefix.

    Raises:
        ProblemError: `invalid-options`, the caller wants more of it.
    """
    if frames >= plan.prefix_frames:
        return plan
    if asked:
        raise _too_short(plan.prefix_frames, frames)
    stride = plan.card.temporal_patch
    kept = 1 + (frames - 1) // stride * stride
    first = replace(plan.windows[0], context=_latent(plan.card, kept))
    return replace(plan, prefix_frames=kept, windows=(first, *plan.windows[1:]))


def _latent(card: ModelCard, frames: int) -> int:
    return 0 if frames == 0 else card.geometry.grid((frames, card.patch, card.patch))[0]


def _params(generator: GeneratorCard, options: GenerateOptions) -> GenerateParams:
    own = SAMPLING_SETTINGS[generator.kind]
    for name in itertools.chain(*SAMPLING_SETTINGS.values()):
        if name not in own and getattr(options, name) is not None:
            family = "language model" if generator.kind == "lm" else "diffusion model"
            raise ProblemError.of_option(
                name, f"The generator {generator.id} is a {family}, which takes no {name}. Leave it out."
            )
    if options.temperature is not None and 0 < options.temperature < MIN_TEMPERATURE:
        raise ProblemError.of_option(
            "temperature", f"A temperature is at least {MIN_TEMPERATURE:g}, or 0 for the likeliest token."
        )
    if options.guidance is not None:
        if not generator.guided and options.guidance != 1:
            raise ProblemError.of_option("guidance", f"The generator {generator.id} has no guidance. Leave it out.")
        if generator.kind == "diffusion" and options.guidance < 1:
            raise ProblemError.of_option("guidance", f"The guidance of {generator.id} is at least 1, which is none.")
    if generator.max_steps is not None and (options.steps or 1) > generator.max_steps:
        raise ProblemError.of_option("steps", f"The generator {generator.id} has {generator.max_steps} steps at most.")
    given = {name: getattr(options, name) for name in own if getattr(options, name) is not None}
    if options.class_ is None and generator.class_count and "guidance" not in given:
        given["guidance"] = 1.0  # guidance leads towards a class
    return replace(generator.defaults, **given)
