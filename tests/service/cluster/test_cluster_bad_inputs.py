"""The table of bad requests against the real service: the same answers through the proxy and both tiers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from api_media import clip, picture
from api_traps import FileTrap, PortTrap
from bad_inputs import CASES, MARKER, Target, send
from cluster_service import Service

CALLERS = 4


@pytest.fixture
def target(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    decoy = tmp_path_factory.mktemp("decoy") / "decoy.mp4"
    decoy.write_bytes(clip())
    MARKER.unlink(missing_ok=True)
    file, port = FileTrap(decoy), PortTrap()
    yield Target(service.card, decoy, port.port)
    assert not file.sprung(), "a request opened the decoy file"
    assert not port.sprung(), "a request connected to the decoy port"
    assert not MARKER.exists(), "a pickle was run"
    file.close()
    port.close()


def test_every_bad_input_gets_its_problem(service: Service, http: httpx.Client, target: Target) -> None:
    with ThreadPoolExecutor(CALLERS) as callers:
        answers = callers.map(lambda case: send("127.0.0.1", service.settings.port, case, target), CASES)
    wrong = []
    for case, (status, headers, body) in zip(CASES, answers, strict=True):
        problem = json.loads(body) if headers.get("content-type") == "application/problem+json" else {}
        if (status, problem.get("code")) != (case.status, case.code):
            wrong.append((case.name, (case.status, case.code), status, body[:200]))
    assert not wrong
    answer = http.post("/encode", content=picture(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
