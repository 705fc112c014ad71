"""Law 10: training, evaluation, command and service read the same pixels from the same file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from three_readers import Sandbox, command, sandbox, source_of, training
from variants import MAKERS

from media.types import MediaOptions
from training.evaluation.datasets import FileDataset

TESTS = Path(__file__).parents[1]
# Those that nobody reads, and one that the service reads a window of.
NOT_READ = {"b1.json", "cover.mp4", "html.ckpt", "lfs.ckpt", "long150s.mp4"}
SAMPLES = sorted(
    path
    for folder in (TESTS.parent / "docs" / "samples", TESTS / "media" / "cases")
    for path in folder.iterdir()
    if path.suffix != ".md" and path.name not in NOT_READ
)
FILES = [*MAKERS, *(path.name for path in SAMPLES)]
FRAMES = 5


@pytest.fixture(scope="module")
def service() -> Iterator[Sandbox]:
    with sandbox() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("variants")
    for name, make in MAKERS.items():
        (made / name).write_bytes(make())
    for path in SAMPLES:
        (made / path.name).write_bytes(path.read_bytes())
    return made


@pytest.mark.parametrize("name", FILES)
def test_training_and_evaluation_cut_the_squares_of_the_service(service: Sandbox, folder: Path, name: str) -> None:
    path = folder / name
    source = source_of(path)
    options = MediaOptions(size=(40, 40), frames=FRAMES, animated=source.kind == "clips")
    wanted = service.read(path.read_bytes(), options).pixels
    assert np.array_equal(command(path, options).pixels, wanted)
    if source.kind == "clips":  # training holds the last frame
        wanted = wanted[np.minimum(np.arange(FRAMES), len(wanted) - 1)]
    assert np.array_equal(training(path, 40, FRAMES), wanted)
    (batch,) = FileDataset(source, 40, FRAMES, None).batches()
    assert np.array_equal(batch[0], wanted)


def test_training_holds_the_last_frame_where_the_service_gives_fewer(service: Sandbox, folder: Path) -> None:
    path = folder / "plain.mp4"
    wanted = service.read(path.read_bytes(), MediaOptions(size=(40, 40), frames=12)).pixels
    made = training(path, 40, 12)
    assert np.array_equal(made[: len(wanted)], wanted)
    assert (made[len(wanted) :] == wanted[-1]).all()


@pytest.mark.parametrize(("stride", "fps"), [(1, 30_000 / 1001), (3, 10_000 / 1001)])
def test_rounded_time_stamps_leave_the_rate(service: Sandbox, folder: Path, stride: int, fps: float) -> None:
    path = folder / "rounded.mkv"
    options = MediaOptions(frames=FRAMES, sampling="stride", stride=stride)
    one, other = service.read(path.read_bytes(), options), command(path, options)
    assert one.source.kept_fps == other.source.kept_fps == pytest.approx(fps, rel=0 if stride == 1 else 0.01)


sides = st.integers(1, 90)
options = st.builds(
    MediaOptions,
    size=st.one_of(st.none(), st.tuples(sides, sides)),
    fit=st.sampled_from(["cover", "contain", "stretch"]),
    frames=st.one_of(st.none(), st.integers(1, 9)),
    sampling=st.sampled_from(["first", "uniform"]),
    start_s=st.one_of(st.none(), st.floats(0, 0.1)),
    end_s=st.one_of(st.none(), st.floats(0.2, 1)),
    animated=st.booleans(),
)
strides = st.builds(replace, options, sampling=st.just("stride"), stride=st.integers(1, 4))


@given(st.sampled_from(FILES), options | strides)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_command_and_service_read_the_same(service: Sandbox, folder: Path, name: str, options: MediaOptions) -> None:
    """Also what the file was and what was done to it, whatever the options."""
    path = folder / name
    one, other = service.read(path.read_bytes(), options), command(path, options)
    assert np.array_equal(one.pixels, other.pixels)
    assert one.source.kept_fps == other.source.kept_fps
    assert (one.source, one.preprocess, one.is_video) == (other.source, other.preprocess, other.is_video)
