"""Sampling of latents by diffusion, batched over items of one shape; one captured step on a GPU (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

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

MODULATION_STEPS = 64  # steps whose modulations are made at once; more would only take memory


class DiffusionError(ValueError):
    """A batch that a diffusion model cannot make."""


class StepShape(NamedTuple):
    """The shape of a captured step.

    Args:
        items: samples in the batch.
        frames: latent frames.
        guided: whether each item has an unconditional row too.
        random: whether the step adds noise.
    """

    items: int
    frames: int
    guided: bool
    random: bool

    @property
    def rows(self) -> int:
        """Return the rows that the network sees."""
        return self.items * (1 + self.guided)


class DiffusionSampler:
    """A diffusion transformer that samples batches.

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
        self._plans: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def begin(self, items: Sequence[DiffusionItem], params: DiffusionParams) -> DiffusionRun:
        """Start a batch.

        Raises:
            DiffusionError: the model cannot make it.
        """
        return DiffusionRun(self, items, params)

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
        run = self.begin(items, params)
        while not run.finished:
            run.step()
            if on_step is not None:
                on_step(run.done, params.steps)
        return run.latents()

    def plan(self, params: DiffusionParams) -> tuple[Tensor, Tensor]:
        """Return timesteps (S,) and `StepFactors` (S, 8) in the order of sampling, on the device; made once."""
        key = params.steps, params.sampler
        if key not in self._plans:
            schedule = self.schedule.respaced(params.steps)
            factors = step_factors(schedule, params.sampler)
            self._plans[key] = schedule.timesteps.flip(0).to(self.device), factors.flip(0).to(self.device)
        return self._plans[key]

    @torch.inference_mode()
    def prepare(self, shape: StepShape) -> _Step:
        """Return the step of a shape, which a GPU captures at the first call."""
        if shape not in self._steps:
            self._steps[shape] = _Step(self.network, shape, self._pool)
        return self._steps[shape]


class DiffusionRun:
    """A batch on its way from noise to latents; it holds all that changes.

    Args:
        sampler: whose model it runs.
        items, params: as for `DiffusionSampler.sample`.

    Attributes:
        done: steps taken.
    """

    def __init__(self, sampler: DiffusionSampler, items: Sequence[DiffusionItem], params: DiffusionParams) -> None:
        config, device = sampler.config, sampler.device
        self._sampler, self._params = sampler, params
        frames = config.grid[0] if params.frames is None else params.frames
        _check(config, items, params, frames)
        self.done = 0
        guided = any(item.guidance != 1 for item in items)
        self._shape = StepShape(len(items), frames, guided, params.sampler == "ddpm")
        self._timesteps, self._factors = sampler.plan(params)
        self._guidance = torch.tensor([float(item.guidance) for item in items]).to(device)
        ids = [config.null_class if item.class_id is None else item.class_id for item in items]
        ids += [config.null_class] * (len(items) if guided else 0)
        distinct = sorted(set(ids))  # rows of one class share their modulations
        self._classes = torch.tensor(distinct).to(device)
        self._row_classes = torch.tensor([distinct.index(index) for index in ids]).to(device)
        self._modulations = torch.empty(0)
        self._history = None if params.cache is None else FeatureHistory(params.cache.order)
        self._generators = [torch.Generator().manual_seed(item.seed) for item in items]
        self._x = self._draw()

    @property
    def finished(self) -> bool:
        """Return whether all steps were taken."""
        return self.done == self._params.steps

    @torch.inference_mode()
    def step(self) -> None:
        """Take one step; on a GPU it is enqueued only."""
        cache = self._params.cache
        step = self._sampler.prepare(self._shape)
        step.x.copy_(self._x)
        torch.index_select(self._modulation(), 0, self._row_classes, out=step.modulation)
        step.factors.copy_(self._factors[self.done])
        step.guidance.copy_(self._guidance)
        if step.noise is not None:
            step.noise.copy_(self._draw())
        if self._history is None or cache is None:
            step.run_blocks()
        elif cache.runs(self.done):
            step.run_blocks()
            self._history.update(self.done, step.features.tokens)
        else:
            tokens = self._history.forecast(self.done)
            step.features.normed.copy_(self._sampler.network.normalize(tokens, step.modulation))
        self._x = step.finish()
        self.done += 1

    @torch.inference_mode()
    def keep(self, places: Sequence[int]) -> None:
        """Go on with these items alone, in this order; one may occur twice.

        Raises:
            DiffusionError: features are forecast, which belong to every item.
        """
        if self._history is not None:
            raise DiffusionError("A batch whose features are forecast must stay whole; leave out `cache`.")
        kept = torch.tensor(places).to(self._x.device)
        self._x, self._guidance = self._x[kept], self._guidance[kept]
        self._row_classes = self._row_classes.unflatten(0, (-1, self._shape.items))[:, kept].flatten()
        # one that occurs twice must not advance the generator of the other
        self._generators = [self._generators[place].clone_state() for place in places]
        self._shape = self._shape._replace(items=len(places))

    def latents(self) -> Tensor:
        """Return the tokenizer's latents (B, t, h, w, C) of what the steps so far made."""
        return restore_latents(self._x, self._sampler.config)

    def _draw(self) -> Tensor:
        """Draw standard normal noise (B, t, h, w, C) from the generators of the items."""
        device = self._sampler.device
        shape = (self._shape.frames, *self._sampler.config.grid[1:], self._sampler.config.channels)
        pinned = device.type == "cuda"
        noise = [torch.randn(shape, generator=generator, pin_memory=pinned) for generator in self._generators]
        return torch.stack([part.to(device, non_blocking=True) for part in noise])

    def _modulation(self) -> Tensor:
        """Return the modulations of this step (classes, 6 layers + 2, D); those of many steps come from one product."""
        place = self.done % MODULATION_STEPS
        if place == 0:
            timesteps = self._timesteps[self.done : self.done + MODULATION_STEPS]
            classes = self._classes.repeat(len(timesteps))
            repeated = timesteps.repeat_interleave(len(self._classes))
            modulations = self._sampler.network.modulate(repeated, classes)
            self._modulations = modulations.unflatten(0, (len(timesteps), -1))
        return self._modulations[place]


def _check(config: DiffusionConfig, items: Sequence[DiffusionItem], params: DiffusionParams, frames: int) -> None:
    if not items:
        raise DiffusionError("A batch must hold one item at least.")
    if params.steps > config.timesteps:
        raise DiffusionError(f"steps={params.steps} must be at most {config.timesteps}, the timesteps of the model.")
    if frames > config.grid[0]:
        raise DiffusionError(f"frames={frames} must be at most {config.grid[0]}, which the model was trained on.")
    for item in items:
        if item.class_id is not None and item.class_id >= config.classes:
            raise DiffusionError(f"Class {item.class_id} must be below {config.classes}, the model's classes.")


class _Step:
    """One step on buffers that stay where they are: the blocks, then output, guidance and the update of x."""

    def __init__(self, network: DenoisingNetwork, shape: StepShape, pool: _POOL_HANDLE | None) -> None:
        config, device = network.config, network.device
        self._network, self._shape = network, shape
        modulations = MODULATIONS * config.layers + OUT_MODULATIONS
        self.x = torch.zeros(shape.items, shape.frames, *config.grid[1:], config.channels, device=device)
        self.modulation = torch.zeros(shape.rows, modulations, config.width, dtype=network.dtype, device=device)
        self.factors = torch.zeros(len(StepFactors._fields), device=device)
        self.guidance = torch.ones(shape.items, device=device)
        self.noise = torch.zeros_like(self.x) if shape.random else None
        self._blocks_graph = self._finish_graph = None
        if device.type != "cuda":
            return
        with on_stream(torch.cuda.Stream(device)):
            for _ in range(WARM_UPS):
                self.features = self._blocks()
                self._update()
        self._blocks_graph, self.features = capture_graph(self._blocks, pool, errors="thread_local")
        self._finish_graph, self._next = capture_graph(self._update, pool, errors="thread_local")

    def run_blocks(self) -> None:
        """Run the blocks on `x` and `modulation`; fills `features`."""
        if self._blocks_graph is None:
            self.features = self._blocks()
        else:
            self._blocks_graph.replay()

    def finish(self) -> Tensor:
        """Return the next x from `features.normed`."""
        if self._finish_graph is None:
            return self._update()
        self._finish_graph.replay()
        return self._next.clone()

    def _blocks(self) -> Features:
        x = torch.cat((self.x, self.x)) if self._shape.guided else self.x
        return self._network.features(x, self.modulation)

    def _update(self) -> Tensor:
        prediction = self._network.predict(self.features.normed, self._shape.frames)
        if self._shape.guided:
            channels = self._network.config.guidance_channels or self._network.config.channels
            conditional, unconditional = prediction.chunk(2)
            prediction = guide(conditional, unconditional, self.guidance, channels)
        return denoise_step(self.x, prediction, StepFactors(*self.factors.unbind()), self.noise)
