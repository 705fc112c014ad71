"""Recorded walks through the Freedoom maps in ViZDoom: textured interiors under strong camera motion."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.demo_data.procgen import shrink
from training.errors import TrainingError

MAPS = (
    *(f"E{episode}M{number}" for episode in range(1, 5) for number in range(1, 10)),
    *(f"MAP{number:02d}" for number in range(1, 33)),
)
HELD_OUT_MAPS = ("E2M2", "E4M1", "MAP11")
TRAIN_MAPS = tuple(name for name in MAPS if name not in HELD_OUT_MAPS)

NATIVE_SIDE = 384  # pixels of the centre square of the screen
TICS = 2  # of the game's 35 a second, between frames
WALKED_BETWEEN = (15, 50)  # frames between clips, so that two clips differ
MIN_MOTION = 2.0  # mean absolute difference of neighbouring frames, of 255, below which a clip is dropped
MIN_LIGHT = 24.0  # mean of a clip's pixels, of 255
ATTEMPTS = 60  # clips tried for each clip kept
MIN_MOVED_UNITS = 1.5  # of the map, between frames, below which the walker turns away


def record(name: str, size: int, frames: int, count: int, seed: int, path: Path) -> NDArray[np.uint8]:
    """Walk through a map and record clips in which the picture moves.

    Args:
        name: one of `MAPS`.
        size: side of a frame in pixels; divides 384.
        frames, count: of a clip, and of clips.
        seed: of the game and of the walk.
        path: folder to import ViZDoom from.

    Returns:
        uint8 (count, frames, size, size, 3).

    Raises:
        TrainingError: the walk never moves enough.
    """
    walker = Walker(name, seed, path)
    try:
        clips: list[NDArray[np.uint8]] = []
        for _ in range(ATTEMPTS * count):
            if len(clips) == count:
                return np.stack(clips)
            for _ in range(int(walker.random.integers(*WALKED_BETWEEN))):
                walker.step()
            clip = np.stack([shrink(walker.step(), size) for _ in range(frames)])
            if moves(clip):
                clips.append(clip)
    finally:
        walker.game.close()
    raise TrainingError(f"A walk through {name} gave {len(clips)} clips with enough motion, not {count}.")


def moves(clip: NDArray[np.uint8]) -> bool:
    """Return whether a clip, uint8 (T, H, W, 3), is lit and changes between its frames."""
    values = clip.astype(np.int16)
    return bool(values.mean() >= MIN_LIGHT and np.abs(np.diff(values, axis=0)).mean() >= MIN_MOTION)


@dataclass
class Gait:
    """A movement of the walker: map units and degrees of each tic."""

    forward: float
    sideways: float
    turn: float
    left: int  # frames until the next change


class Walker:
    """A camera that walks towards open space and turns where it is stuck; arguments are those of `record`."""

    def __init__(self, name: str, seed: int, path: Path) -> None:
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))
        import vizdoom  # not a dependency: only this class needs it

        self.random = np.random.default_rng([seed, MAPS.index(name)])
        self.scratch = tempfile.TemporaryDirectory()  # the game writes its settings next to the working directory
        self.game: Any = vizdoom.DoomGame()
        maps = path / "vizdoom" / f"freedoom{1 if name.startswith('E') else 2}.wad"
        self.game.set_doom_game_path(str(maps))
        self.game.set_doom_scenario_path(str(maps))
        self.game.set_doom_config_path(str(Path(self.scratch.name) / "settings.ini"))
        self.game.set_doom_map(name)
        self.game.set_doom_skill(2)
        self.game.set_seed(int(self.random.integers(2**31)))
        self.game.set_screen_resolution(vizdoom.ScreenResolution.RES_512X384)
        self.game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        self.game.set_depth_buffer_enabled(True)
        self.game.set_window_visible(False)
        for hidden in ("hud", "weapon", "crosshair", "messages", "screen_flashes"):
            getattr(self.game, f"set_render_{hidden}")(False)
        buttons = vizdoom.Button
        moves = [buttons.MOVE_FORWARD_BACKWARD_DELTA, buttons.MOVE_LEFT_RIGHT_DELTA, buttons.TURN_LEFT_RIGHT_DELTA]
        self.game.set_available_buttons([*moves, buttons.USE])
        variables = vizdoom.GameVariable
        self.game.set_available_game_variables([variables.POSITION_X, variables.POSITION_Y])
        self.game.add_game_args("+sv_cheats 1")
        self.game.init()
        self.place = np.zeros(2)
        self.gait = Gait(0, 0, 0, 0)
        self.steps = 0
        self._start()

    def _start(self) -> None:
        self.game.new_episode()
        self.game.send_game_command("god")

    def step(self) -> NDArray[np.uint8]:
        """Walk on for `TICS` and return the centre square, uint8 (384, 384, 3)."""
        if self.game.is_episode_finished():  # the walker found the exit of the map
            self._start()
        state = self.game.get_state()
        place = np.array(state.game_variables)
        moved = float(np.hypot(*(place - self.place)))
        self.place = place
        if self.gait.left == 0 or (moved < MIN_MOVED_UNITS and self.gait.forward > 0):
            self._change(stuck=moved < MIN_MOVED_UNITS)
        self.gait.left -= 1
        self.steps += 1
        turn = self.gait.turn + (self._opening(state.depth_buffer) if self.gait.forward > 0 else 0.0)
        self.game.make_action([self.gait.forward, self.gait.sideways, turn, self.steps % 16 == 0], TICS)
        picture: NDArray[np.uint8] = state.screen_buffer
        left = (picture.shape[1] - NATIVE_SIDE) // 2
        return picture[:, left : left + NATIVE_SIDE]

    def _change(self, stuck: bool) -> None:
        """Draw another gait; away from the wall where the walker is stuck."""
        if stuck:
            side = float(self.random.choice((-1, 1)))
            self.gait = Gait(-6, 0, side * float(self.random.uniform(1, 5)), int(self.random.integers(8, 30)))
        else:
            forward, sideways, turn = self.random.uniform((2, -4, -1.5), (18, 4, 1.5)).tolist()
            self.gait = Gait(forward, sideways, turn, int(self.random.integers(8, 30)))

    def _opening(self, depth: NDArray[np.uint8]) -> float:
        """Return the degrees of a tic that turn towards the deepest part of the view."""
        row = depth[depth.shape[0] // 2 - 20 : depth.shape[0] // 2 + 20].astype(float).mean(axis=0)
        columns = np.linspace(-1, 1, len(row))
        weights = row**2 + 1e-6
        return 3.0 * float((columns * weights).sum() / weights.sum())
