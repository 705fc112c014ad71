"""Readers of long answers: a bounded number, of which the greediest caller's oldest gives way."""

from __future__ import annotations

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from service.api.readers import Readers


@given(st.lists(st.sampled_from("abc"), max_size=20), st.integers(1, 5))
def test_beyond_the_bound_the_oldest_of_who_has_most_ends(callers: list[str], limit: int) -> None:
    readers, ended, there = Readers(limit), list[int](), list[int]()
    with ExitStack() as stack:
        for number, caller in enumerate(callers):
            stack.enter_context(readers.reading(caller, lambda number=number: ended.append(number)))
            there.append(number)
            if len(there) > limit:
                assert there == sorted(there)
                counts = {whose: sum(callers[other] == whose for other in there) for whose in callers}
                gone = ended[-1]
                assert counts[callers[gone]] == max(counts[callers[other]] for other in there)
                assert gone == min(other for other in there if callers[other] == callers[gone])
                there.remove(gone)
            assert len(readers) == len(there) <= limit
    assert (len(readers), len(set(ended))) == (0, len(ended))


def test_one_that_leaves_makes_place() -> None:
    readers, ended = Readers(1), list[int]()
    for number in range(3):
        with readers.reading("a", lambda number=number: ended.append(number)):
            assert len(readers) == 1
    assert ended == []
