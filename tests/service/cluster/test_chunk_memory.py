"""Chunks in shared memory: whole on the other side, out of messages, and never those of somebody else."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from service.chunks import ChunkInput, ChunkOutput, ClipState
from service.cluster.chunk_memory import ChunkPlaces, Memory, NotHereError, load, outcome, read, store, write
from service.errors import ProblemError

SHAPES = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
ARRAYS = st.lists(st.none() | npst.arrays(st.sampled_from([np.uint8, np.int16, np.int32, np.float32]), SHAPES))
PIXELS = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
STATE = ClipState(5, (np.arange(3, dtype=np.float32), None, np.empty((1, 0, 2), np.uint8)))
ANSWER = ChunkOutput(np.arange(4, dtype=np.int32).reshape(1, 2, 2), STATE, 1.0, 2.0)
LARGE = ClipState(5, (np.zeros(2**20, np.float32),))
DOUBLE = """
import pickle, sys
from service.chunks import ChunkOutput, ClipState
from service.cluster.chunk_memory import load, store
asked = pickle.load(sys.stdin.buffer)
chunk = load(asked)
state = ClipState(chunk.state.frames + 1, tuple(2 * array for array in chunk.state.arrays))
pickle.dump(store(asked.out, ChunkOutput(chunk.array + 1, state), 2**20), sys.stdout.buffer)
"""


def assert_equal(found: Sequence[NDArray[Any] | None], expected: Sequence[NDArray[Any] | None]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if one is None or other is None:
            assert one is other
        else:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@given(ARRAYS)
def test_arrays_come_out_as_they_went_in(arrays: list[NDArray[Any] | None]) -> None:
    memory = Memory()
    assert_equal(read(memory.descriptor, write(memory.descriptor, arrays)), arrays)


def test_a_chunk_and_its_outcome_are_whole() -> None:
    places, out = ChunkPlaces(ChunkInput(PIXELS, STATE, final=True)), Memory()
    chunk = load(places.asking(out))
    assert chunk.final
    assert chunk.state is not None
    assert chunk.state.frames == STATE.frames
    assert_equal([chunk.array, *chunk.state.arrays], [PIXELS, *STATE.arrays])
    found = outcome(out, store(out.place, ANSWER, 2**20))
    assert_equal([found.array, *found.state.arrays], [ANSWER.array, *STATE.arrays])
    assert (found.state.frames, found.queue_ms, found.compute_ms) == (STATE.frames, 1.0, 2.0)


def test_another_process_does_a_chunk_and_the_next() -> None:
    chunk = ChunkInput(PIXELS, ClipState(0, (np.ones(3, np.float32),)))
    for turn in range(3):
        places, out = ChunkPlaces(chunk), Memory()
        asked = pickle.dumps(places.asking(out))
        done = subprocess.run([sys.executable, "-c", DOUBLE], input=asked, capture_output=True, check=True)
        found = outcome(out, pickle.loads(done.stdout))
        chunk = ChunkInput(found.array, found.state)
        del places, out, found
        gc.collect()  # the state alone keeps its memory
        assert chunk.state is not None
        assert_equal([chunk.array, *chunk.state.arrays], [PIXELS + turn + 1, np.full(3, 2.0 ** (turn + 1), np.float32)])


def test_a_message_holds_no_array() -> None:
    first, out = ChunkPlaces(ChunkInput(PIXELS, LARGE)), Memory()
    assert len(pickle.dumps(first.asking(out))) < 2000
    answer = store(out.place, ChunkOutput(PIXELS, LARGE), 2**30)
    assert len(pickle.dumps(answer)) < 2000
    second = ChunkPlaces(ChunkInput(PIXELS, outcome(out, answer).state)).asking(Memory())
    assert second.state is not None
    assert second.state.place == out.place, "what is in memory already is not copied"


def test_who_changes_an_array_changes_no_other() -> None:
    asked = ChunkPlaces(ChunkInput(PIXELS))
    for _ in range(2):
        chunk = load(asked.asking(Memory()))
        np.testing.assert_array_equal(chunk.array, PIXELS)
        chunk.array[...] = 0


def test_memory_of_somebody_else_is_not_opened() -> None:
    out = Memory()
    for place in (
        out.place._replace(name="omnitok-0"),
        out.place._replace(descriptor=os.dup(0)),
        out.place._replace(process=2**30),
    ):
        with pytest.raises(NotHereError):
            store(place, ANSWER, 2**20)


def test_a_descriptor_that_changes_hands_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    out, other = Memory(), Memory()
    real = os.open

    def late(*arguments: Any) -> int:
        os.dup2(other.descriptor, out.descriptor)
        return real(*arguments)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(NotHereError):
        store(out.place, ANSWER, 2**20)
    assert os.fstat(other.descriptor).st_size == 0


def test_memory_goes_with_its_owner() -> None:
    asked = ChunkPlaces(ChunkInput(PIXELS)).asking(Memory())
    gc.collect()
    with pytest.raises(NotHereError):
        load(asked)
    with pytest.raises(NotHereError):
        store(asked.out, ANSWER, 2**20)


def test_a_state_over_the_bound_is_refused() -> None:
    out = Memory()
    with pytest.raises(ProblemError) as refused:
        store(out.place, ChunkOutput(PIXELS, LARGE), 2**20)
    assert refused.value.code == "too-many-tokens"
    assert os.fstat(out.descriptor).st_size == 0
