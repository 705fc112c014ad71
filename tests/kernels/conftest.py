"""An absent GPU for the tests of refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from absent_gpu import capability


@pytest.fixture
def _gpu() -> Iterator[None]:
    with capability(9, 0):
        yield
