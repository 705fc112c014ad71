"""Every bad request gets its documented problem, touches nothing, and leaves the server as it was."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from api_media import clip, picture
from api_server import VQ, Server
from api_traps import FileTrap, PortTrap
from bad_generate import GENERATE_CASES
from bad_inputs import CASES, MARKER, Case, Target, send
from waiting import eventually

from service.errors import PROBLEMS


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    decoy = tmp_path_factory.mktemp("decoy") / "decoy.mp4"
    decoy.write_bytes(clip())
    MARKER.unlink(missing_ok=True)
    file, port = FileTrap(decoy), PortTrap()
    yield Target(VQ, decoy, port.port)
    assert not file.sprung(), "a request opened the decoy file"
    assert not port.sprung(), "a request connected to the decoy port"
    assert not MARKER.exists(), "a pickle was run"
    assert decoy.read_bytes() == clip()
    assert file.sprung(), "the file trap sees nothing"
    file.close()
    port.close()


def test_table_names_are_unique_and_all_are_refusals() -> None:
    assert len(CASES) >= 200
    every = [*CASES, *GENERATE_CASES]
    assert [name for name, count in Counter(case.name for case in every).items() if count > 1] == []
    for case in every:
        assert PROBLEMS[case.code][0] == case.status, case.name
        assert 400 <= case.status < 500, case.name


@pytest.mark.parametrize("case", [*CASES, *GENERATE_CASES], ids=lambda case: case.name)
def test_bad_input_gets_its_problem(
    case: Case, server: Server, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.code == "slow-body":
        monkeypatch.setattr("service.api.body.SLOW_BODY_SECONDS", 0.5)
    status, headers, body = send("127.0.0.1", server.port, case, target)
    assert headers["content-type"] == "application/problem+json", body[:300]
    problem = json.loads(body)
    assert (status, problem["code"]) == (case.status, case.code), problem
    assert problem["type"] == f"/problems/{case.code}"
    assert problem["status"] == status
    assert problem["title"] == PROBLEMS[case.code][1]
    assert problem["instance"] == f"urn:request:{headers['x-request-id']}"
    assert 10 < len(problem["detail"]) < 1000
    assert re.fullmatch(r"[A-Z`].*\.", problem["detail"])
    assert len(problem.get("errors", [])) <= 20
    # Nothing of the caller's comes back.
    assert not re.search(r"passwd|decoy|Traceback|\.py", body.decode())
    if case.code in ("body-too-large", "too-many-pixels", "too-many-frames", "too-many-tokens", "too-long"):
        assert problem["limit"] > 0
    if case.code == "model-mismatch":
        assert re.search(r"0{64}|b{64}", problem["detail"])
        assert VQ.hash in problem["detail"]


def test_server_still_answers(server: Server, http: httpx.Client, target: Target) -> None:
    headers = {"Content-Type": "image/png"}
    failures = _failures(server)
    for code in sorted({case.code for case in CASES}):
        case = next(case for case in CASES if case.code == code)
        if case.code != "slow-body":
            send("127.0.0.1", server.port, case, target)
        assert http.post("/encode", content=picture(), headers=headers).status_code == 200
    assert http.get("/health/ready").status_code == 200
    eventually(lambda: not any(server.counts.flying.values()))
    assert _failures(server) == failures


def _failures(server: Server) -> int:
    return sum(count for (_, _, code), count in server.counts.requests.items() if code.startswith("5"))
