"""The corpus through HTTP: every answer checked, and a known request between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from benchmarks.hostile.corpus import Case
from benchmarks.hostile.outcomes import Outcome, Rows
from media.write import encode_image
from service.errors import PROBLEMS
from service.formats.media_types import JSON, PROBLEM_TYPE

AT_ONCE = 4
CHECK_EVERY = 100
KNOWN_TRIES = 10
TIMEOUT_SECONDS = 90.0
KNOWN = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(1, 64, 64, 3).astype(np.uint8)


def run(url: str, case: Callable[[int], Case], indices: Iterable[int], rows: Rows) -> None:
    """Send the cases that have no row."""
    waiting = iter(rows.missing(indices))
    lock = threading.Lock()
    with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        expected = known_answer(client)

        def work(_: int) -> None:
            while True:
                with lock:
                    index = next(waiting, None)
                if index is None:
                    return
                outcome = send(client, case(index))
                if not outcome.fault and index % CHECK_EVERY == 0 and known_answer(client) != expected:
                    outcome = Outcome(index, outcome.kind, outcome.source, "changed", 0.0, "a known answer changed")
                with lock:
                    rows.add(outcome)

        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(work, range(AT_ONCE)))
        if known_answer(client) != expected:
            raise AssertionError("The answer to a known request changed.")


def known_answer(client: httpx.Client) -> bytes:
    """Return the tokens of a known picture."""
    headers = {"Content-Type": "image/png", "Accept": "application/x-npy"}
    for _ in range(KNOWN_TRIES):
        response = client.post("/encode", content=encode_image(KNOWN, "image/png"), headers=headers)
        if response.status_code != 503:
            break
        time.sleep(float(response.headers["retry-after"]))
    response.raise_for_status()
    return response.content


def send(client: httpx.Client, case: Case) -> Outcome:
    """Send one case and judge its answer."""
    headers = {"Content-Type": case.content_type} if case.content_type else {}
    started = time.monotonic()
    try:
        response = client.post(case.path, content=case.data, params=case.query, headers=headers)
        answer, fault = judge(response)
    except httpx.HTTPError as error:
        answer, fault = type(error).__name__, str(error) or "no answer"
    return Outcome(case.index, case.kind, case.source, answer, round(time.monotonic() - started, 3), fault)


def judge(response: httpx.Response) -> tuple[str, str]:
    """Return a name for an answer, and what is wrong with it."""
    if response.status_code < 400:
        return "ok", ""
    try:
        document = response.json()
        is_openai = "error" in document
        code = document["error"]["code"] if is_openai else document["code"]
    except (ValueError, KeyError, TypeError):
        return str(response.status_code), f"not a problem document: {response.text[:80]!r}"
    status, _ = PROBLEMS.get(code, (0, ""))
    kind = response.headers.get("content-type", "").partition(";")[0]
    if not is_openai and (kind != PROBLEM_TYPE or not document["status"] == response.status_code == status):
        return code, f"status {response.status_code} and type {kind} do not fit the document"
    if is_openai and kind != JSON:
        return code, f"the type is {kind}"
    if response.status_code == 503:
        return code, "" if "retry-after" in response.headers else "a 503 without Retry-After"
    return code, f"status {response.status_code}" if response.status_code >= 500 else ""
