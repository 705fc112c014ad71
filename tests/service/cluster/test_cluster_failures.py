"""A replica that is killed under load costs no request, and comes back."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
from api_media import picture
from cluster_service import Service, eventually

from service.formats.codes import read_codes

REQUESTS = 600
CLIENTS = 8


def test_no_request_fails_when_a_tokenizer_replica_is_killed(service: Service) -> None:
    """Two tokenizer replicas under steady load; SIGKILL for one of them after a third of the requests."""
    eventually(lambda: len(service.processes("Tokenizer")) == 2)
    victim = min(service.processes("Tokenizer"))
    halfway = threading.Event()
    answered = iter(range(1, REQUESTS + 1))
    body = picture(height=256, width=256)  # large enough to keep both replicas busy
    local = threading.local()

    def request(number: int) -> tuple[int, bytes]:
        if not hasattr(local, "client"):
            local.client = httpx.Client(base_url=service.url, timeout=60)
        answer = local.client.post("/encode", content=body, headers={"Content-Type": "image/png"})
        if next(answered) == REQUESTS // 3:
            halfway.set()
        return answer.status_code, answer.content

    def kill() -> None:
        halfway.wait()
        os.kill(victim, signal.SIGKILL)

    def replicas() -> set[str]:
        return {dict(labels)["replica"] for labels in service.metrics("queue_requests")}

    def counted() -> float:
        return service.total("http_requests_total", route="/encode", code="200")

    def starts() -> float:
        return service.total("replica_starts_total", deployment="Tokenizer")

    eventually(lambda: len(replicas()) == 2)
    service.idle()
    already, lost, started = counted(), replicas(), starts()
    killer = threading.Thread(target=kill)
    killer.start()
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(request, range(REQUESTS)))
    killer.join()

    failed = [(status, content[:200]) for status, content in answers if status != 200]
    assert not failed
    tokens = {read_codes(content).tokens.tobytes() for _, content in answers}
    assert len(tokens) == 1, "an answer belongs to another request"

    def replaced() -> bool:
        now = service.processes("Tokenizer")
        return len(now) == 2 and victim not in now

    eventually(lambda: counted() == already + REQUESTS)
    eventually(replaced)

    eventually(lambda: len(replicas()) == 2 and replicas() != lost)
    eventually(lambda: starts() > started)  # a replica shows its queue before it is ready
    assert service.total("batches_total") > 0
