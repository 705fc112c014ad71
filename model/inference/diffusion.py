"""Sampling of latents by diffusion: one captured step for items of one shape at any steps of theirs (section 3.2)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from kernels.runtime.jit import compile_all
from model.generator.diffusion_config import DiffusionConfig
from model.generator.diffusion_sampling import (
    DiffusionItem,
    DiffusionParams,
    FeatureHistory,
    StepFactors,
    denoise_step,
    guide,
    restore_latents,
    step_factors,
)
from model.generator.dit import MODULATIONS, OUT_MODULATIONS, DiT
from model.generator.noise_schedule import NoiseSchedule
from model.inference.diffusion_network import DenoisingNetwork, Features
from model.inference.graphs import WARM_UPS, capture_graph, on_stream

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

MODULATION_STEPS = 16  # steps whose modulations are made at once; more would only take memory


class DiffusionError(ValueError):
    """A batch that a diffusion model cannot make."""


class StepShape(NamedTuple):
    """The shape of a captured step.

    Args:
        items: samples in the batch.
        frames: latent frames.
        guided: whether each item has an unconditional row too.
    """

    items: int
    frames: int
    guided: bool

    @property
    def rows(self) -> int:
        """Return the rows that the network sees."""
        return self.items * (1 + self.guided)


class DiffusionSampler:
    """A diffusion transformer that samples batches, whose items may be at different steps.

    The noise of an item depends on its seed alone, and its sample does not depend on its company: exactly in theory,
    and up to the rounding of matrix products in practice, whose order may change with the batch. One thread at a time
    may use it, for any number of runs.

    Args:
        model: the network, on any device; its weights are shared where they are on the device in this precision.
        device: where it shall run.
        dtype: of the products.
    """

    def __init__(self, model: DiT, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config = model.config
        self.device = torch.device(device)
        self.schedule = NoiseSchedule.linear(model.config.timesteps)
        with torch.inference_mode():
            self.network = DenoisingNetwork(model, self.device, dtype)
        self._steps: dict[StepShape, _Step] = {}
        self._sizes: dict[tuple[int, bool], list[int]] = {}
        self._plans: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self._modulations: WeakValueDictionary[tuple[int, int, int], Tensor] = WeakValueDictionary()
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def begin(self, item: DiffusionItem, params: DiffusionParams) -> DiffusionRun:
        """Start a sample, which `step` advances.

        Raises:
            DiffusionError: the model cannot make it.
        """
        return DiffusionRun(self, item, params)

    @torch.inference_mode()
    def step(self, runs: Sequence[DiffusionRun]) -> None:
        """Take one step of each run, those of equal frames and guidance in one batch; on a GPU it is enqueued only."""
        groups: dict[tuple[int, bool, bool], list[DiffusionRun]] = {}
        for run in runs:
            groups.setdefault((run.frames, run.guided, run.forecasts), []).append(run)
        for (frames, guided, _), group in groups.items():
            size = self._size(len(group), frames, guided)
            self._load_modulations(group)
            for start in range(0, len(group), size):
                part = group[start : start + size]
                self._captured(StepShape(size, frames, guided)).advance(part)

    def sample(
        self,
        items: Sequence[DiffusionItem],
        params: DiffusionParams,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Sample a batch.

        Args:
            items: one or more.
            params: that they share.
            on_step: called with steps done and steps in all after each; an error that it raises ends the run.

        Returns:
            The tokenizer's latents (B, t, h, w, C), float32, on the device.

        Raises:
            DiffusionError: the model cannot make it.
        """
        if not items:
            raise DiffusionError("A batch must hold one item at least.")
        runs = [self.begin(item, params) for item in items]
        for done in range(params.steps):
            self.step(runs)
            if on_step is not None:
                on_step(done + 1, params.steps)
        return torch.stack([run.latents() for run in runs])

    def plan(self, params: DiffusionParams) -> tuple[Tensor, Tensor]:
        """Return timesteps (S,) and `StepFactors` (S, 8) in the order of sampling, on the device; made once."""
        key = params.steps, params.sampler
        if key not in self._plans:
            schedule = self.schedule.respaced(params.steps)
            factors = step_factors(schedule, params.sampler)
            self._plans[key] = schedule.timesteps.flip(0).to(self.device), factors.flip(0).to(self.device)
        return self._plans[key]

    @torch.inference_mode()
    def prepare(self, sizes: Mapping[tuple[int, bool], Sequence[int]]) -> None:
        """Compile and capture steps on a GPU.

        Args:
            sizes: numbers of items by frames and guidance. From then on no other number of items is captured for
                these: fewer are padded, and more take several steps.
        """
        if self._pool is None:
            return
        self._sizes |= {key: sorted(counts) for key, counts in sizes.items()}
        shapes = [StepShape(count, *key) for key, counts in sizes.items() for count in counts]
        with compile_all():  # every kernel at once, on all cores
            for shape in shapes:
                _Step(self.network, shape, None).rehearse()
        for shape in sorted(shapes, key=lambda shape: -shape.rows * shape.frames):  # the others fit into its memory
            self._captured(shape)

    def _captured(self, shape: StepShape) -> _Step:
        if shape not in self._steps:
            self._steps[shape] = _Step(self.network, shape, self._pool)
        return self._steps[shape]

    def _size(self, count: int, frames: int, guided: bool) -> int:
        """Return the items of the step that so many take, or the most that one takes."""
        sizes = self._sizes.get((frames, guided))
        if sizes is None:
            return count
        return sizes[min(bisect_left(sizes, count), len(sizes) - 1)]

    def _load_modulations(self, runs: Sequence[DiffusionRun]) -> None:
        """Give runs the modulations of their next steps, one table a class, which runs of equal steps share."""
        parts: dict[tuple[int, int], list[DiffusionRun]] = {}
        for run in runs:
            if run.done % MODULATION_STEPS == 0:
                parts.setdefault((run.params.steps, run.done), []).append(run)
        for (steps, start), fresh in parts.items():
            classes = sorted({index for run in fresh for index in run.classes})
            found = {index: self._modulations.get((steps, start, index)) for index in classes}
            tables = {index: table for index, table in found.items() if table is not None}
            if missing := [index for index in classes if index not in tables]:
                timesteps = fresh[0].timesteps[start : start + MODULATION_STEPS]
                rows = torch.tensor(missing).to(self.device).repeat_interleave(len(timesteps))
                made = self.network.modulate(timesteps.repeat(len(missing)), rows).chunk(len(missing))
                # copies, so that the table of a class does not hold the others'
                tables |= {index: table.clone() for index, table in zip(missing, made, strict=True)}
            for index, table in tables.items():
                self._modulations[steps, start, index] = table
            for run in fresh:
                run.tables = [tables[index] for index in run.classes]


class DiffusionRun:
    """A sample on its way from noise to latents; it holds all that changes.

    Args:
        sampler: whose model makes it.
        item, params: as for `DiffusionSampler.sample`.

    Attributes:
        done: steps taken.
        x: what the steps so far made, normalised (t, h, w, C).
        frames, guided: latent frames, and whether there is an unconditional row.
        classes: of its rows.
        tables: modulations (S, 6 layers + 2, D) of each row at the steps around this one.
        timesteps, factors: of all steps (S,), and their `StepFactors` (S, 8).
        guidance: scale (1,).
        history: the latest features of its rows, where some are forecast.
    """

    def __init__(self, sampler: DiffusionSampler, item: DiffusionItem, params: DiffusionParams) -> None:
        config = sampler.config
        self.frames = config.grid[0] if params.frames is None else params.frames
        _check(config, item, params, self.frames)
        self.params, self.done = params, 0
        self.guided = item.guidance != 1
        class_id = config.null_class if item.class_id is None else item.class_id
        self.classes = (class_id, config.null_class) if self.guided else (class_id,)
        self.tables: list[Tensor] = []
        self.timesteps, self.factors = sampler.plan(params)
        self.guidance = torch.full((1,), float(item.guidance), device=sampler.device)
        self.history = None if params.cache is None else FeatureHistory(params.cache.order)
        self._sampler = sampler
        self._generator = torch.Generator().manual_seed(item.seed)
        self.x = self.draw()

    @property
    def finished(self) -> bool:
        """Return whether all steps were taken."""
        return self.done == self.params.steps

    @property
    def forecasts(self) -> bool:
        """Return whether the next step forecasts the features."""
        return self.params.cache is not None and not self.params.cache.runs(self.done)

    @property
    def random(self) -> bool:
        """Return whether its steps add noise."""
        return self.params.sampler == "ddpm"

    @property
    def modulation(self) -> list[Tensor]:
        """Return the modulations (6 layers + 2, D) of its rows at this step."""
        return [table[self.done % MODULATION_STEPS] for table in self.tables]

    def latents(self) -> Tensor:
        """Return the tokenizer's latents (t, h, w, C) of what the steps so far made."""
        return restore_latents(self.x, self._sampler.config)

    def draw(self) -> Tensor:
        """Draw standard normal noise (t, h, w, C)."""
        config, device = self._sampler.config, self._sampler.device
        shape = self.frames, *config.grid[1:], config.channels
        noise = torch.randn(shape, generator=self._generator, pin_memory=device.type == "cuda")
        return noise.to(device, non_blocking=True)


def _check(config: DiffusionConfig, item: DiffusionItem, params: DiffusionParams, frames: int) -> None:
    if params.steps > config.timesteps:
        raise DiffusionError(f"steps={params.steps} must be at most {config.timesteps}, the timesteps of the model.")
    if frames > config.grid[0]:
        raise DiffusionError(f"frames={frames} must be at most {config.grid[0]}, which the model was trained on.")
    if item.class_id is not None and item.class_id >= config.classes:
        raise DiffusionError(f"Class {item.class_id} must be below {config.classes}, the model's classes.")


class _Step:
    """One step on buffers that stay where they are: the blocks, then output, guidance and the update of x.

    Conditional rows come first; the unconditional ones follow in the same order. Rows beyond the runs of a call hold
    whatever was there.
    """

    def __init__(self, network: DenoisingNetwork, shape: StepShape, pool: _POOL_HANDLE | None) -> None:
        config, device = network.config, network.device
        self._network, self._shape = network, shape
        modulations = MODULATIONS * config.layers + OUT_MODULATIONS
        self._x = torch.zeros(shape.items, shape.frames, *config.grid[1:], config.channels, device=device)
        self._modulation = torch.zeros(shape.rows, modulations, config.width, dtype=network.dtype, device=device)
        self._factors = torch.zeros(shape.items, len(StepFactors._fields), device=device)
        self._guidance = torch.ones(shape.items, device=device)
        self._noise = torch.zeros_like(self._x)
        self._starts = range(0, shape.rows, shape.items)  # of the conditional and the unconditional rows
        self._blocks_graph: torch.cuda.CUDAGraph | None = None
        self._updates: dict[bool, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        if pool is not None:
            self._capture(pool)

    def advance(self, runs: Sequence[DiffusionRun]) -> None:
        """Take one step of each run, all of this shape, and all with features to compute or all to forecast."""
        count, random = len(runs), any(run.random for run in runs)
        torch.stack([run.x for run in runs], out=self._x[:count])
        torch.stack([run.factors[run.done] for run in runs], out=self._factors[:count])
        torch.cat([run.guidance for run in runs], out=self._guidance[:count])
        for row, start in enumerate(self._starts):
            torch.stack([run.modulation[row] for run in runs], out=self._modulation[start : start + count])
        for place, run in enumerate(runs):
            if run.random:
                self._noise[place].copy_(run.draw())
        if runs[0].forecasts:
            self._forecast(runs)
        else:
            self._run_blocks(runs)
        for run, x in zip(runs, self._finish(random), strict=False):
            run.x = x
            run.done += 1

    def rehearse(self) -> None:
        """Run all that is captured, on whatever the buffers hold."""
        self._tokens, self._normed = self._blocks()
        for random in (False, True):
            self._update(random)

    def _capture(self, pool: _POOL_HANDLE) -> None:
        self._network.choose_algorithms(self._shape.rows, self._shape.frames)
        with on_stream(torch.cuda.Stream(self._network.device)):
            for _ in range(WARM_UPS):
                self.rehearse()
        self._blocks_graph, (self._tokens, self._normed) = capture_graph(self._blocks, pool, errors="thread_local")
        for random in (False, True):
            self._updates[random] = capture_graph(partial(self._update, random), pool, errors="thread_local")

    def _run_blocks(self, runs: Sequence[DiffusionRun]) -> None:
        if self._blocks_graph is None:
            self._tokens, self._normed = self._blocks()
        else:
            self._blocks_graph.replay()
        for place, run in enumerate(runs):
            if run.history is not None:
                run.history.update(run.done, self._tokens[place :: self._shape.items])

    def _forecast(self, runs: Sequence[DiffusionRun]) -> None:
        tokens = torch.stack([run.history.forecast(run.done) for run in runs if run.history is not None], dim=1)
        modulation = self._modulation.unflatten(0, (-1, self._shape.items))[:, : len(runs)].flatten(0, 1)
        normed = self._network.normalize(tokens.flatten(0, 1), modulation)
        if self._blocks_graph is None:
            self._normed = normed
        else:
            places = self._normed.unflatten(0, (-1, self._shape.items))[:, : len(runs)]
            places.copy_(normed.unflatten(0, (-1, len(runs))))

    def _finish(self, random: bool) -> Tensor:
        """Return the next x of every item."""
        if not self._updates:
            return self._update(random)
        graph, x = self._updates[random]
        graph.replay()
        return x.clone()

    def _blocks(self) -> Features:
        x = torch.cat((self._x, self._x)) if self._shape.guided else self._x
        return self._network.features(x, self._modulation)

    def _update(self, random: bool) -> Tensor:
        prediction = self._network.predict(self._normed, self._shape.frames)
        if self._shape.guided:
            channels = self._network.config.guidance_channels or self._network.config.channels
            conditional, unconditional = prediction.chunk(2)
            prediction = guide(conditional, unconditional, self._guidance, channels)
        factors = StepFactors(*self._factors.view(-1, len(StepFactors._fields), 1, 1, 1, 1).unbind(1))
        return denoise_step(self._x, prediction, factors, self._noise if random else None)
