"""Jobs on the real cluster: the owner and a generator are killed, and each job ends once, as its seed says."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
from cluster_service import Service, eventually

from service.formats.samples import read_arrays

ASYNC = {"Prefer": "respond-async", "Accept": "application/msgpack"}
JOBS = 6
QUERY = "class=bee&frames=17&n=16&output=tokens"


def test_jobs_outlive_their_owner_and_their_generator(service: Service) -> None:
    transport = httpx.HTTPTransport(retries=3)
    with httpx.Client(base_url=service.url, timeout=60, transport=transport) as http:

        def state(path: str) -> dict[str, Any]:
            answer = http.get(path)
            return answer.json() if answer.status_code == 200 else {"status": "unknown"}

        def submit(seed: int, key: str) -> httpx.Response:
            return http.post(f"/generate?{QUERY}&seed={seed}", headers=ASYNC | {"Idempotency-Key": key})

        answers = [submit(seed, f"outlive-{seed}") for seed in range(JOBS)]
        assert {answer.status_code for answer in answers} == {202}
        jobs = [answer.headers["location"] for answer in answers]
        eventually(lambda: any(state(job).get("progress", {}).get("done") for job in jobs))
        eventually(lambda: len(service.processes("JobOwner")) == 1)
        (owner,) = service.processes("JobOwner")
        os.kill(owner, signal.SIGKILL)
        os.kill(min(service.processes("Tokenizer")), signal.SIGKILL)
        eventually(lambda: service.processes("JobOwner") not in ({owner}, set()))
        eventually(
            lambda: (again := submit(0, "outlive-0")).status_code == 202 and again.headers["location"] == jobs[0]
        )
        eventually(lambda: all(state(job)["status"] == "completed" for job in jobs), seconds=300)
        for seed in (0, JOBS - 1):
            again = http.post(f"/generate?{QUERY}&seed={seed}", headers={"Accept": "application/msgpack"})
            assert _samples(http.get(f"{jobs[seed]}/content").content) == _samples(again.content)
        assert len(http.get("/jobs?limit=100").json()["data"]) == JOBS
        eventually(lambda: service.total("jobs", status="completed") == JOBS)
        eventually(lambda: len(service.processes("Tokenizer")) == 2)


def _samples(body: bytes) -> list[Any]:
    """Return the tokens of each sample."""
    return [sample.codes.tokens.tolist() for sample in read_arrays(body).samples]  # type: ignore[union-attr]
