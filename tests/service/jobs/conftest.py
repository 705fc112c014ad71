"""The places of stores: each test that takes one runs over all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from redis_server import NEEDS_REDIS, redis_server
from stores import Clock, Place, RedisPlace, SqlitePlace

KINDS = ["sqlite", pytest.param("redis", marks=NEEDS_REDIS)]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return SqlitePlace(tmp_path) if request.param == "sqlite" else RedisPlace(request.getfixturevalue("redis_url"))


@pytest.fixture
def clock() -> Clock:
    return Clock()
