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

        def submit(seed: int, key: str) -> str:
            answer = http.post(f"/generate?{QUERY}&seed={seed}", headers=ASYNC | {"Idempotency-Key": key})
            assert answer.status_code == 202, answer.text
            return answer.headers["location"]

        jobs = [submit(seed, f"outlive-{seed}") for seed in range(JOBS)]
        eventually(lambda: any(state(job)["progress"]["done"] for job in jobs))
        (owner,) = service.processes("JobOwner")
        os.kill(owner, signal.SIGKILL)
        os.kill(min(service.processes("Tokenizer")), signal.SIGKILL)
        eventually(lambda: service.processes("JobOwner") not in ({owner}, set()))
        assert submit(0, "outlive-0") == jobs[0], "the new owner knows the old one's jobs"
        eventually(lambda: all(state(job)["status"] == "completed" for job in jobs), 120)
        for seed in (0, JOBS - 1):
            again = http.post(f"/generate?{QUERY}&seed={seed}", headers={"Accept": "application/msgpack"})
            assert _samples(http.get(f"{jobs[seed]}/content").content) == _samples(again.content)
        assert len(http.get("/jobs?limit=100").json()["data"]) == JOBS
        eventually(lambda: service.total("jobs", status="completed") == JOBS)
        eventually(lambda: len(service.processes("Tokenizer")) == 2)


def _samples(body: bytes) -> list[Any]:
    """Return the tokens of each sample."""
    return [sample.codes.tokens.tolist() for sample in read_arrays(body).samples]  # type: ignore[union-attr]
