"""Every test of this folder runs in Triton's interpreter, in one process for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from inspect import signature

import pytest
from interpreter import new_process

INTERPRETER = pytest.StashKey[ProcessPoolExecutor]()


@pytest.fixture(scope="session", autouse=True)
def _interpreter(request: pytest.FixtureRequest) -> Iterator[None]:
    with new_process() as request.config.stash[INTERPRETER]:
        yield


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    function = pyfuncitem.obj
    arguments = {name: pyfuncitem.funcargs[name] for name in signature(function).parameters}
    pyfuncitem.config.stash[INTERPRETER].submit(function, **arguments).result()
    return True
