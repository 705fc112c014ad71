"""Recorded play of Procgen: sixteen games whose levels are generated from seeds, so that splits are level ranges."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAMES = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)  # fmt: skip
TRAIN_LEVELS = (0, 100_000)  # first level and number of levels
HELD_OUT_LEVELS = (1_000_000, 100_000)
NATIVE_SIDE = 512  # pixels that the games are drawn at
ENVIRONMENTS = 4  # games played at once
ACTIONS = 15
ACTION_STEPS = 5  # a random action is held for this long
PLAYED_BETWEEN = (20, 60)  # steps between clips, so that two clips of an episode differ
WHOLE_SHARE = 2 / 3  # of the clips show the whole screen, the others a quarter of it, closer
STEPS = 2  # from frame to frame
RESTART = -1  # the action that ends an episode: the next level begins
# their figures go from square to square: at two steps a frame most clips of heist and maze are still
SLOW_GAMES, SLOW_STEPS = frozenset({"chaser", "dodgeball", "heist", "leaper", "maze", "miner"}), 6


def record(
    game: str, size: int, frames: int, count: int, levels: tuple[int, int], seed: int, path: Path | None,
    by_class: bool = False,
) -> NDArray[np.uint8]:  # fmt: skip
    """Play at random and record clips of every second step.

    Args:
        game: one of `GAMES`.
        size: side of a frame in pixels; divides 256.
        frames, count: of a clip, and of clips.
        levels: first level and number of levels.
        seed: of environments, actions and views.
        path: folder to import Procgen from, or None if it is installed.
        by_class: record for generators: whole screens alone, each of a level of its own, and slow games at every sixth
            step. A quarter of a screen is often mere background, which many games share.

    Returns:
        uint8 (count, frames, size, size, 3); each clip stays within one level.
    """
    random = np.random.default_rng([seed, GAMES.index(game), levels[0]])
    play = Player(game, levels, random, path)
    clips: list[NDArray[np.uint8]] = []
    steps = SLOW_STEPS if by_class and game in SLOW_GAMES else STEPS
    while len(clips) < count:
        if by_class:
            play.restart()
        play.steps(int(random.integers(*PLAYED_BETWEEN)))
        top, left = (int(place) for place in random.integers(0, NATIVE_SIDE // 2 + 1, 2))
        side = NATIVE_SIDE // 2
        if by_class or random.random() < WHOLE_SHARE:
            top, left, side = 0, 0, NATIVE_SIDE
        shown: list[list[NDArray[np.uint8]]] = [[] for _ in range(ENVIRONMENTS)]
        seen: list[set[int]] = [set() for _ in range(ENVIRONMENTS)]
        for _ in range(frames):
            play.steps(steps)
            for number, info in enumerate(play.env.get_info()):
                shown[number].append(shrink(info["rgb"][top : top + side, left : left + side], size))
                seen[number].add(int(info["level_seed"]))
        # an episode that ended inside the clip jumped to another level
        clips += [np.stack(shown[number]) for number in range(ENVIRONMENTS) if len(seen[number]) == 1]
    return np.stack(clips[:count])


class Player:
    """Several environments of one game under random actions; arguments are those of `record`."""

    def __init__(self, game: str, levels: tuple[int, int], random: np.random.Generator, path: Path | None) -> None:
        if path is not None and str(path) not in sys.path:
            sys.path.insert(0, str(path))
        with contextlib.redirect_stderr(io.StringIO()):  # importing it prints another package's notice
            from procgen.env import ProcgenGym3Env  # not a dependency: only this class needs it
        self.env: Any = ProcgenGym3Env(
            num=ENVIRONMENTS, env_name=game, render_mode="rgb_array", rand_seed=int(random.integers(2**31)),
            start_level=levels[0], num_levels=levels[1], distribution_mode="easy",
        )  # fmt: skip
        self.random = random
        self.actions = np.zeros(ENVIRONMENTS, dtype=np.int32)
        self.played = 0

    def restart(self) -> None:
        """Begin the next level of every environment."""
        self.env.act(np.full(ENVIRONMENTS, RESTART, dtype=np.int32))

    def steps(self, count: int) -> None:
        """Play so many steps."""
        for _ in range(count):
            if self.played % ACTION_STEPS == 0:
                self.actions = self.random.integers(0, ACTIONS, ENVIRONMENTS).astype(np.int32)
            self.env.act(self.actions)
            self.played += 1


def shrink(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Average a square picture down to uint8 (size, size, 3); its side is a multiple of `size`."""
    step = picture.shape[0] // size
    # sums of strided views: ten times as fast as a mean over two axes
    rows = sum((picture[index::step] for index in range(1, step)), start=picture[::step].astype(np.uint32))
    cells = sum((rows[:, index::step] for index in range(1, step)), start=rows[:, ::step])
    return (cells / step**2).round().astype(np.uint8)
